"""From Arrow, as files hold it, to raw columns: what converts, and what is refused with its row."""

from __future__ import annotations

import decimal
from typing import Any

import pyarrow as pa
import pytest
from tests.support import everything

from diptych.bulk.conversion import from_arrow
from diptych.bulk.texts import day_of, time_of
from diptych.store.packing import BadRow
from diptych.store.raw import Raw

COLUMNS = everything.COLUMNS
Dec = decimal.Decimal


def values(name: str, array: Any) -> list[Any]:
    """The column's own numbers or bytes, None where the bitmap says so."""
    column = COLUMNS[name]
    raw = from_arrow("thing", column, array, 0)
    assert len(raw) == len(array)
    found = items(raw)
    valid = raw.valid
    return (
        found if valid is None else [v if ok else None for v, ok in zip(found, valid, strict=True)]
    )


def items(raw: Raw) -> list[Any]:
    if raw.offsets is not None:
        pairs = zip(raw.offsets, raw.offsets[1:], strict=False)
        return [raw.values[start:stop].tobytes() for start, stop in pairs]
    if raw.values.ndim == 2:
        return [row.tobytes() for row in raw.values]
    return raw.values.tolist()


def texts(*given: str | None) -> Any:
    return pa.array(given, pa.string())


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("id", texts("1", " -7", "9223372036854775807"), [1, -7, 2**63 - 1]),
        ("id", pa.array([3, 4], pa.int8()), [3, 4]),
        ("id", pa.array([3.0, 4.0]), [3, 4]),
        ("huge", texts("18446744073709551615"), [2**64 - 1]),
        ("tiny", texts("-128"), [-128]),
        ("parent", texts("5", None, "6"), [5, None, 6]),
        ("parent", pa.array([None, None]), [None, None]),
        ("ratio", texts("1.5", "-inf", "2"), [1.5, float("-inf"), 2.0]),
        ("ratio", pa.array([1, 2]), [1.0, 2.0]),
        ("rough", texts("0.5"), [0.5]),
        ("weight", pa.array([None, 2.5]), [None, 2.5]),
        ("yes", texts("true", "False", "1", "0"), [1, 0, 1, 0]),
        ("yes", pa.array([1, 0]), [1, 0]),
        ("flag", pa.array([True, None]), [1, None]),
        ("price", texts("12.5", "-0.01", "7"), [1250, -1, 700]),
        ("price", pa.array([Dec("1.50")]), [150]),
        ("price", pa.array([5, -2]), [500, -200]),
        ("price", pa.array([12.34]), [1234]),
        ("price", texts("-92233720368547758.08"), [-(2**63)]),
        ("cost", pa.array([None, Dec("1.001")]), [None, 1001]),
        ("fee", texts("21474.83647"), [2**31 - 1]),
        ("side", texts("BUY", "SELL", "-1"), [1, -1, -1]),
        ("side", pa.array(["SELL", "BUY"]).dictionary_encode(), [-1, 1]),
        ("small_side", pa.array([1, -1]), [1, -1]),
        ("mood", texts(None, "BUY"), [None, 1]),
        ("made", texts("1970-01-01T00:00:01Z", "1970-01-01 01:00:00+01:00"), [10**9, 0]),
        ("made", texts("1970-01-01 00:00:00.000000001", "5"), [1, 5]),
        ("made", texts("1677-09-21T00:12:43.145224192Z"), [-(2**63)]),
        ("made", pa.array([1], pa.timestamp("ms")), [10**6]),
        ("made", pa.array([1], pa.timestamp("us", tz="Europe/Paris")), [1000]),
        ("made", pa.array([77]), [77]),
        ("due", texts("1970-01-02", "-3"), [1, -3]),
        ("due", pa.array([3], pa.date32()), [3]),
        ("due", pa.array([86_400_000], pa.date64()), [1]),
        ("until", texts(None, "2000-01-01"), [None, 10957]),
        ("code", texts("", "é"), [b"\0\0\0\0", "é".encode() + b"\0\0"]),
        ("word", texts(None, "", "abc"), [None, bytes(8), b"abc" + bytes(5)]),
        ("mark", texts("616263"), [b"abc\0"]),
        ("mark", pa.array([b"abc"], pa.binary(3)), [b"abc\0"]),
        ("digest", pa.array([b"x" * 16]), [b"x" * 16]),
        ("note", pa.array(["a", "", "ééé"], pa.large_string()), [b"a", b"", "ééé".encode()]),
        ("story", texts(None, "a"), [None, b"a"]),
        ("blob", pa.array([b"", b"\0\xff"]), [b"", b"\0\xff"]),
        ("blob", texts("00ff", ""), [b"\0\xff", b""]),
    ],
)
def test_what_converts(name: str, array: Any, expected: list[Any]) -> None:
    assert values(name, array) == expected
    longer = pa.concat_arrays([array, array])
    assert values(name, longer.slice(len(array))) == expected
    assert values(name, longer.slice(1)) == (expected * 2)[1:]


@pytest.mark.parametrize(
    ("name", "array", "row"),
    [
        ("id", texts("1", "2", "three", "x"), 3),
        ("id", texts("1", None), 2),
        ("id", pa.array([1.0, 1.5]), 2),
        ("tiny", pa.array([1, 128, 300]), 2),
        ("byte", texts("255", "-1"), 2),
        ("price", texts("1.50", "1.505"), 2),
        ("price", pa.array([1.5, 1.505]), 2),
        ("price", texts("92233720368547758.08"), 1),
        ("fee", texts("0", "21474.83648"), 2),
        ("side", texts("BUY", "buy"), 2),
        ("yes", texts("true", "yes"), 2),
        ("yes", pa.array([0, 2]), 2),
        ("made", texts("1970-01-01", "yesterday"), 2),
        ("made", texts("2262-04-11T23:47:16.854775808Z"), 1),
        ("made", pa.array([2**62], pa.timestamp("s")), 1),
        ("due", texts("2024-02-30"), 1),
        ("code", texts("abc", "abcd"), 2),
        ("code", pa.array([1, 2]), 1),
        ("mark", texts("616263", "6162"), 2),
        ("mark", texts("616263", "zz"), 2),
        ("note", pa.array([b"bytes"]), 1),
        ("ratio", texts("1", "one"), 2),
    ],
)
def test_what_is_refused_with_its_row(name: str, array: Any, row: int) -> None:
    with pytest.raises(BadRow) as no:
        from_arrow("thing", COLUMNS[name], array, 100)
    told = no.value.details
    assert (told["table"], told["column"], told["row"]) == ("thing", name, 100 + row)
    assert told["limit"]
    assert told["value"] is not None or not array[row - 1].is_valid


def test_nothing_in_csv_is_empty_text_where_none_can_not_be() -> None:
    nothing = texts("a", None)
    for name in ("code", "note"):
        assert not COLUMNS[name].optional
        with pytest.raises(BadRow):  # a null of another file is one
            from_arrow("thing", COLUMNS[name], nothing, 0)
        assert (
            items(from_arrow("thing", COLUMNS[name], nothing, 0, csv=True))[1].strip(b"\0") == b""
        )
    for name in ("id", "mark", "due"):
        with pytest.raises(BadRow):
            from_arrow("thing", COLUMNS[name], texts(None), 0, csv=True)


def test_times_as_people_write_them() -> None:
    noon = time_of("2024-01-31T12:00:00Z")
    assert noon == 1_706_702_400 * 10**9
    for same in (
        "2024-01-31 12:00",
        "2024-01-31T12:00:00.000",
        "2024-01-31T13:30:00+01:30",
        "2024-01-31T07:00:00-0500",
        "2024-01-31T14:00+02",
    ):
        assert time_of(same) == noon, same
    assert time_of("2024-01-31") == day_of("2024-01-31") * 86_400 * 10**9
    assert time_of("1969-12-31T23:59:59.9Z") == -(10**8)
    assert time_of("12") == 12
    for wrong in ("", "2024-13-01", "2024-01-01T25:00", "noon", "2024-01-31T12:00:00.1234567890"):
        with pytest.raises(ValueError):
            time_of(wrong)
    with pytest.raises(ValueError):
        day_of("31.1.2024")
