"""`docs/semantics.md`, point by point, in both lanes: one test a point, named after its number.

Each call is made in both lanes, and outcome and memory are compared; what is asserted here is that
the outcome is what the document says.
"""

from __future__ import annotations

import inspect
import linecache
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from tests.support import reference, semantics
from tests.support.lanes import Lanes

from diptych import App, Db, Rejected, key, text
from diptych.errors import DeclarationError
from diptych.store import words as at
from diptych.store.faults import ReadOnly, StaleRow
from diptych.store.words import BUILT_WORDS

DOCUMENT = Path(__file__).parents[2] / "docs/semantics.md"
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
NAN = math.nan


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    with Lanes(semantics.app) as both:
        yield both
        both.compare()
        for bench in both.benches:
            bench.verify()


@pytest.fixture
def items(lanes: Lanes) -> Lanes:
    """Five items, 1 to 5, of ranks 10 to 50."""
    lanes.call("new_owner", 1)
    for id in range(1, 6):
        assert lanes.call("new_item", id, id * 10, id, 1) == id
    return lanes


def bad(lanes: Lanes, column: str, name: str, *arguments: Any) -> Any:
    """A call that must be rejected with bad_value for a column; returns the value that it names."""
    before = [bench.fingerprint() for bench in lanes.benches]
    kind, code, details = lanes.check(name, *arguments)
    assert (kind, code, details["column"]) == ("rejected", "bad_value", column)
    assert set(details) == {"table", "column", "value", "limit"}
    assert before == [bench.fingerprint() for bench in lanes.benches]
    return details["value"]


def rejected(lanes: Lanes, wanted: str, name: str, *arguments: Any) -> dict[str, Any]:
    """A call that must be rejected with this code, and leave every byte as it was."""
    before = [bench.fingerprint() for bench in lanes.benches]
    outcome = lanes.check(name, *arguments)
    assert outcome[:2] == ("rejected", wanted), outcome
    assert before == [bench.fingerprint() for bench in lanes.benches]
    details: dict[str, Any] = outcome[2]
    return details


def crashes(lanes: Lanes, name: str, *arguments: Any) -> None:
    """A call that must end as a bug of the handler, and leave every byte as it was."""
    before = [bench.fingerprint() for bench in lanes.benches]
    assert lanes.check(name, *arguments)[0] == "server_error"
    assert before == [bench.fingerprint() for bench in lanes.benches]


def refused(told: str, handler: Callable[..., Any]) -> None:
    """A handler that is not compiled, for the reason told, and runs interpreted."""
    app = App("refused")
    app.table(Small)
    app.transaction(handler)
    with pytest.raises(DeclarationError, match=told), app.open(lane="compiled"):
        pass


class Small:
    id: int = key()
    size: float = 0.0
    ready: bool = False
    name: semantics.Name = ""
    code: semantics.Code = b"abc"
    note: str = ""


# 1. Ints ----------------------------------------------------------------------------------------


def test_1_1_ints_have_no_limit(lanes: Lanes) -> None:
    assert lanes.call("compute", 0, 2**62, 2**40, 2**41) == 2**61
    assert lanes.call("compute", 0, INT_MAX, INT_MAX, INT_MAX) == INT_MAX
    assert lanes.call("compute", 5, INT_MIN, 1, 0) == INT_MAX
    assert lanes.call("compute", 6, INT_MIN, 1, 0) == INT_MAX
    assert lanes.call("compute", 7, INT_MIN, -5, INT_MAX) == -1
    assert lanes.call("compute", 0, INT_MAX, 2, 1) == 2**64 - 2
    crashes(lanes, "compute", 0, INT_MAX, 4, 1)  # a result of more than 64 bits can't be sent


def test_1_2_a_column_takes_what_fits_and_nothing_wraps(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    for value in (-128, 127):
        lanes.check("set_int", 1, 1, value)
        assert lanes.call("numbers", 1).tiny == value
    assert bad(lanes, "tiny", "set_int", 1, 1, 128) == 128
    assert bad(lanes, "tiny", "set_int", 1, 1, -129) == -129
    assert bad(lanes, "tiny", "new_number", 2, 1_000) == 1_000
    lanes.call("set_int", 1, 2, 1000)
    assert bad(lanes, "short", "set_int", 1, 2, 1001) == 1001  # fits 16 bits, but not between()
    assert bad(lanes, "short", "set_int", 1, 2, -11) == -11
    assert bad(lanes, "day", "set_int", 1, 6, 2**31) == 2**31
    assert lanes.call("numbers", 1).short == 1000


def test_1_3_division_rounds_down(lanes: Lanes) -> None:
    for a in (-7, -6, 0, 6, 7, INT_MIN, INT_MAX):
        for b in (-3, -1, 1, 3, INT_MIN):
            if -a // -b <= INT_MAX:
                assert lanes.call("compute", 1, a, b, 0) == a // b
            assert lanes.call("compute", 2, a, b, 0) == a % b
    crashes(lanes, "compute", 1, 1, 0, 0)
    crashes(lanes, "compute", 2, 1, 0, 0)


def test_1_4_shifts(lanes: Lanes) -> None:
    assert lanes.call("compute", 3, 3, 4, 0) == 48
    assert lanes.call("compute", 4, -1, 70, 0) == -1
    assert lanes.call("compute", 4, -5, 1, 0) == -3
    crashes(lanes, "compute", 3, 1, -1, 0)
    crashes(lanes, "compute", 4, 1, -1, 0)
    assert lanes.call("compute", 3, 1, 63, 0) == 2**63


def test_1_5_true_division_rounds_once(lanes: Lanes) -> None:
    assert lanes.call("quotient", 7, 2) == 3.5
    assert lanes.call("quotient", 2**53 + 1, 3) == (2**53 + 1) / 3
    assert lanes.call("quotient", INT_MAX, 2**53 + 3) == INT_MAX / (2**53 + 3)
    crashes(lanes, "quotient", 1, 0)


def test_1_6_bools_are_ints_but_ints_are_no_bools(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    assert lanes.check("set_flag", 1, True) == 2
    assert lanes.check("set_flag", 1, False) == 0

    def int_into_bool(db: Db) -> None:
        db.small[1].ready = 1

    refused("small.ready holds bool, not int", int_into_bool)
    assert lanes.call("numbers", 1).flag is False


def test_1_7_a_column_without_sign_holds_64_bits(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    for bench in lanes.benches:
        with bench.transaction() as db:
            db.number[1].large = 2**64 - 2
            db.number.insert(id=2, large=5)
    lanes.compare()
    assert lanes.check("large_half", 1) == 2**63 - 1
    assert lanes.call("find_large", 5) == 2
    assert bad(lanes, "large", "set_int", 1, 3, -1) == -1
    lanes.check("set_int", 1, 3, INT_MAX)
    assert lanes.call("large_half", 1) == INT_MAX // 2


def test_1_8_looking_for_what_no_column_holds_finds_nothing(lanes: Lanes) -> None:
    lanes.call("new_number", 1, 127)
    lanes.call("new_number", 2, -128)
    assert lanes.check("find_tiny", 127) == (1, 2, 1)
    assert lanes.check("find_tiny", 1_000) == (0, 2, 2)
    assert lanes.check("find_tiny", INT_MIN) == (0, 2, 0)
    assert bad(lanes, "large", "find_large", -1) == -1


def test_1_9_enums_are_ints_that_must_be_members(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    assert lanes.check("is_red", 1) is True
    lanes.check("set_int", 1, 4, -2)
    assert lanes.call("is_red", 1) is False
    assert lanes.call("numbers", 1).color == -2
    assert bad(lanes, "color", "set_int", 1, 4, 3) == 3


def test_1_10_decimals_are_ints(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    for bench in lanes.benches:
        with bench.transaction() as db:
            db.number[1].price = 1_50
    lanes.check("set_int", 1, 5, 1_50)
    assert lanes.call("numbers", 1).price == 22_500  # 1.50 * 1.50, and nobody put the point back
    assert bad(lanes, "price", "set_int", 1, 5, 2**62) == str(2**62 * 22_500)


def test_1_11_time_and_day_are_ints(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    lanes.check("set_int", 1, 6, -719_162)
    lanes.check("set_int", 1, 7, 1_700_000_000 * 10**9)
    assert lanes.call("numbers", 1)[-2:] == (-719_162, 1_700_000_000 * 10**9)


# 2. Floats --------------------------------------------------------------------------------------


def test_2_1_ints_become_the_nearest_float(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    lanes.check("set_int", 1, 8, 2**53 + 1)
    found = lanes.call("numbers", 1)
    assert (found.real, found.half) == (float(2**53), float(2**53))
    lanes.check("set_int", 1, 8, 16_777_217)
    assert lanes.call("numbers", 1).half == 16_777_216.0


def test_2_2_no_float_becomes_an_int_by_itself(lanes: Lanes) -> None:
    def float_into_int(db: Db, size: float) -> None:
        db.small.insert(id=size)

    def converted(db: Db) -> int:
        return int(db.small[1].size)

    def rounded(db: Db) -> int:
        return round(db.small[1].size)

    refused("small.id holds int, not float", float_into_int)
    refused(r"int\(\) is compiled for ints and bools alone", converted)
    refused("round is not part of what can be compiled", rounded)
    for bench in lanes.benches:
        bench.call("new_number", 1)
        with pytest.raises(Rejected, match="bad_value"), bench.transaction() as db:
            db.number[1].whole = 2.0


def test_2_3_zero_and_nan_have_one_form_each(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    lanes.call("new_number", 2)
    lanes.check("set_real", 1, -0.0, -0.0, -0.0)
    found = lanes.call("numbers", 1)
    assert [math.copysign(1, each) for each in (found.real, found.half, found.share)] == [1, 1, 1]
    lanes.check("set_real", 1, NAN, -NAN, 0.0)
    found = lanes.call("numbers", 1)
    assert found.real != found.real
    assert found.half != found.half
    assert lanes.call("compare_floats", NAN, NAN) == (False, True, False, False)
    assert lanes.call("by_real", NAN) == 1  # an index finds it: there it has a place


def test_2_4_a_short_float_is_rounded_to_the_nearest(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    lanes.check("set_real", 1, 0.1, 0.1, 0.1)
    found = lanes.call("numbers", 1)
    assert (found.real, found.half) == (0.1, 0.10000000149011612)
    lanes.check("set_real", 1, -1e-300, -1e-300, 0.0)
    assert math.copysign(1, lanes.call("numbers", 1).half) == 1  # rounded to zero
    assert bad(lanes, "half", "set_real", 1, 0.0, 1e39, 0.0) == 1e39
    lanes.check("set_real", 1, 0.0, -math.inf, 0.0)
    assert lanes.call("numbers", 1).half == -math.inf


def test_2_5_bounds_of_floats(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    lanes.check("set_real", 1, 0.0, 0.0, 1.0)
    assert bad(lanes, "share", "set_real", 1, 0.0, 0.0, 1.0000000001) == 1.0000000001
    assert bad(lanes, "share", "set_real", 1, 0.0, 0.0, -1e-300) == -1e-300
    assert math.isnan(bad(lanes, "share", "set_real", 1, 0.0, 0.0, NAN))


def test_2_6_floats_are_ordered_and_nan_comes_last(lanes: Lanes) -> None:
    values = [math.inf, NAN, -math.inf, 1.5, -1.5, 0.0]
    for id, value in enumerate(values, 1):
        lanes.call("new_number", id)
        lanes.check("set_real", id, value, value, 0.0)
    assert lanes.check("by_real", -math.inf) == 356412
    assert lanes.check("by_half", -math.inf) == 356412
    assert lanes.check("by_real", -0.0) == 6412
    assert lanes.check("by_half", 1e-50) == 6412  # sought as the column would hold it


def test_2_7_float_arithmetic(lanes: Lanes) -> None:
    assert lanes.call("compute_float", 0, 1.0, 3.0) == 1 / 3
    assert lanes.call("compute_float", 1, 1e308, 10.0) == math.inf
    assert math.isnan(lanes.call("compute_float", 2, math.inf, math.inf))
    assert math.copysign(1, lanes.call("compute_float", 1, 0.0, -1.0)) == -1
    crashes(lanes, "compute_float", 0, 1.0, 0.0)

    def floored(db: Db) -> float:
        return db.small[1].size // 2.0

    refused("// of float and float is not compiled", floored)


def test_2_8_ints_and_floats_are_not_compared(lanes: Lanes) -> None:
    def mixed(db: Db) -> bool:
        return db.small[1].id < db.small[1].size

    refused("int < float is not compiled", mixed)
    assert lanes.call("compare_floats", 1.5, 2.5) == (False, True, True, False)


# 3. Text and bytes ------------------------------------------------------------------------------


def test_3_1_text_is_measured_in_bytes_and_never_cut(lanes: Lanes) -> None:
    lanes.check("new_word", 1, "äöü")
    assert lanes.call("words", 1).name == "äöü"
    assert bad(lanes, "name", "new_word", 2, "äöüx") == "äöüx"
    assert bad(lanes, "name", "new_word", 2, "seventy seven") == "seventy seven"
    assert lanes.call("new_word", 2, "a" * 21)[0] == "bad_arguments"


def test_3_2_what_text_can_not_hold(lanes: Lanes) -> None:
    assert lanes.call("new_word", 1, "a\0")[0] == "bad_arguments"
    for bench in lanes.benches:
        for value in ("a\0b", "\ud800"):
            with pytest.raises(Rejected, match="bad_value"), bench.transaction() as db:
                db.word.insert(id=1, title=value)


def test_3_3_nothing_is_trimmed_or_folded(lanes: Lanes) -> None:
    for id, title in enumerate(["", " ", "a", "a ", "A"], 1):
        lanes.check("new_word", id, "", title)
        assert lanes.call("words", id).title == title
    assert lanes.call("compare_text", "a", "a ") == (False, True, False)
    assert lanes.call("compare_text", "é", "e\u0301") == (False, False, True)


def test_3_4_text_is_ordered_by_code_points(lanes: Lanes) -> None:
    names = ["b", "a", "Z", "ä", "", "aa", "𝄞", "\uffff"]
    for id, name in enumerate(names, 1):
        lanes.check("new_word", id, name)
    wanted = "".join(str(names.index(name) + 1) for name in sorted(names))
    assert lanes.check("by_name", "") == int(wanted) == 53261487
    assert lanes.check("by_name", "aa") == 61487
    for left in names:
        for right in names:
            found = lanes.call("compare_text", left, right)
            assert found == (left == right, left < right, left >= right)


def test_3_5_data_is_exactly_as_long_as_declared(lanes: Lanes) -> None:
    lanes.call("new_word", 1, "")
    digest = bytes(range(16))
    assert lanes.check("set_data", 1, b"\0\xff\0", digest) is False
    assert lanes.call("words", 1)[2:] == (b"\0\xff\0", digest)
    assert lanes.check("set_data", 1, b"abc", digest) is True
    assert lanes.call("set_data", 1, b"ab", digest)[0] == "bad_arguments"
    for bench in lanes.benches:
        with pytest.raises(Rejected, match="bad_value"), bench.transaction() as db:
            db.word[1].code = b"abcd"


def test_3_6_data_is_ordered_by_bytes(lanes: Lanes) -> None:
    codes = [b"\xff\0\0", b"abc", b"\0\0\0", b"ab\0", b"\x80\0\0"]
    for id, code in enumerate(codes, 1):
        lanes.call("new_word", id, "")
        lanes.check("set_data", id, code, b"x" * 16)
    assert lanes.check("by_code", b"\0\0\0") == 34251
    assert lanes.check("by_code", b"abc") == 251


def test_3_7_values_of_any_length_are_for_the_interpreter(lanes: Lanes) -> None:
    lanes.check("new_word", 1, "")
    assert lanes.check("set_note", 1, "ä" * 10_000) == "ä" * 10_000
    assert lanes.check("drop_word", 1) is None

    def read_note(db: Db) -> bool:
        return db.small[1].note == "a"

    def write_note(db: Db) -> None:
        db.small[1].note = "a"

    def insert_note(db: Db) -> None:
        db.small.insert(id=1, note="a")

    for handler in (read_note, write_note, insert_note):
        refused(r"small.note is a plain str.*text\(40\).*compiled=False", handler)


def test_3_8_text_that_is_built_is_pythons(lanes: Lanes) -> None:
    for one in ("", "abc", "äöü", "日本"):
        for other in ("", "b", "ö", "本"):
            for number in (0, 1, 7, -1, -12):
                text = f"{one} {number:03}" + other
                told = lanes.check("build_text", one, other, number)
                assert told == (text[:number], other in one, len(text))


# 4. None ----------------------------------------------------------------------------------------


def test_4_1_what_is_left_out_of_an_optional_column_is_none(lanes: Lanes) -> None:
    assert lanes.check("new_empty", 1) is True
    assert lanes.call("perhaps", 1) == (None, None, None)
    lanes.call("new_owner", 7)
    assert lanes.check("set_perhaps", 1, 0, "", 7) == (0, "", 7)
    assert lanes.call("perhaps", 1) == (0, "", 7)  # 0 and "" are values
    assert lanes.check("clear_perhaps", 1) is None
    assert lanes.call("perhaps", 1) == (None, None, None)


def test_4_2_other_columns_take_no_none(lanes: Lanes) -> None:
    lanes.call("new_number", 1)
    assert lanes.check("none_into_int", 1, 5) is None
    assert bad(lanes, "whole", "none_into_int", 1, None) is None

    def none_into_float(db: Db) -> None:
        db.small[1].size = None

    refused("small.size holds float, not None", none_into_float)


def test_4_3_none_comes_first(lanes: Lanes) -> None:
    for id, number in enumerate([0, None, INT_MIN, None, INT_MAX, -1], 1):
        lanes.check("new_perhaps", id, number, None, None)
    assert lanes.check("from_number", None) == (243615, 0)
    assert lanes.check("from_number", INT_MIN) == (3615, 24)
    assert lanes.check("by_number", None, False) == 24
    assert lanes.check("by_number", None, True) == 42
    assert lanes.check("by_number", 0, False) == 1


def test_4_4_none_equals_nothing_in_a_unique_index(lanes: Lanes) -> None:
    lanes.call("new_owner", 1)
    lanes.check("new_perhaps", 1, 5, None, None)
    lanes.check("new_perhaps", 2, 5, None, None)  # agrees on number and owner, but that is None
    lanes.check("new_perhaps", 3, None, "a", 1)
    lanes.check("new_perhaps", 4, None, "", 1)
    assert rejected(lanes, "not_unique", "new_perhaps", 5, None, "a", None)["index"] == "by_label"
    lanes.check("new_perhaps", 5, 0, "b", 1)
    lanes.check("new_perhaps", 6, 5, "c", 1)
    assert lanes.check("set_perhaps", 5, None, "b", 1) == (None, "b", 1)
    assert rejected(lanes, "not_unique", "set_perhaps", 5, 5, "b", 1)["index"] == "by_both"


def test_4_5_none_is_never_half_a_value(lanes: Lanes) -> None:
    lanes.call("new_owner", 1)
    lanes.check("new_perhaps", 1, 0, "", 1)
    lanes.check("new_perhaps", 2, 7, "eight by and so on", 1)
    lanes.check("new_perhaps", 3, 8, "eight by and so forth"[:20], 1)
    # On the way from 7 to None an index must not see 0, which row 1 has, nor a mixed text.
    assert lanes.check("set_perhaps", 2, None, None, 1) == (None, None, 1)
    assert lanes.check("set_perhaps", 2, 9, "eight by", 1) == (9, "eight by", 1)


def test_4_6_none_does_not_compute(lanes: Lanes) -> None:
    lanes.call("new_empty", 1)
    crashes(lanes, "add_to_number", 1, 5, False)
    crashes(lanes, "add_to_number", 1, 5, True)
    lanes.call("new_perhaps", 2, 5, None, None)
    assert lanes.check("add_to_number", 2, 6, True) is True
    assert lanes.check("add_to_number", 2, 6, False) is False


# 5. Rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", range(4))
def test_5_1_a_deleted_row_is_stale_through_every_object(items: Lanes, what: int) -> None:
    crashes(items, "use_deleted", 1, what)
    assert "StaleRow" in failure_of(items, "use_deleted", 1, what)


def test_5_2_a_row_ends_with_its_transaction(items: Lanes) -> None:
    for bench in items.benches:
        with bench.transaction() as db:
            row = db.item[1]
        with pytest.raises(StaleRow):
            row.rank  # noqa: B018  # reading is what is tested
        with bench.transaction() as db:
            with pytest.raises(StaleRow):
                row.rank = 5
            with pytest.raises(StaleRow):
                db.item.delete(row)


def test_5_3_a_slot_is_used_again_by_a_later_transaction(items: Lanes) -> None:
    for id in range(6, 10):
        items.check("new_item", id, 0, id, 1)
    rejected(items, "table_full", "replace_item", 3, 50)
    items.check("drop_item", 3)
    assert items.check("counted_item", 50) == 10


def test_5_4_rows_are_one_through_all_objects(items: Lanes) -> None:
    assert items.check("two_rows", 1) == (10, 17, True)


def test_5_5_a_key_is_never_assigned(items: Lanes) -> None:
    def assign_key(db: Db) -> None:
        db.small[1].id = 2

    refused("small.id is part of the key", assign_key)
    for bench in items.benches:
        with pytest.raises(TypeError), bench.transaction() as db:
            db.item[1].id = 7


def test_5_6_a_table_is_walked_by_slots(items: Lanes) -> None:
    assert items.check("walk_slots", 1, 2, 2) == 1345  # deleted, ahead
    assert items.check("walk_slots", 3, 1, 8) == 1345  # into the slot that 2 had, behind
    assert items.check("walk_slots", 3, 1, 9) == 183459  # into a new one, ahead
    assert items.check("walk_slots", 3, 2, 3) == 183459


# 6. Changing an index while walking it ----------------------------------------------------------
# walk(reverse, at, what, id, rank): what is 1 insert, 2 delete, 3 assign, when row `at` is reached.


def test_6_1_a_step_goes_to_the_next_entry_after_the_last_one_given(items: Lanes) -> None:
    assert items.check("walk", False, 0, 0, 0, 0) == 12345
    assert items.check("walk", True, 0, 0, 0, 0) == 54321


def test_6_2_what_is_inserted_ahead_is_seen_and_behind_is_not(items: Lanes) -> None:
    assert items.check("walk", False, 3, 1, 7, 45) == 123475
    assert items.check("walk", False, 3, 1, 8, 25) == 123475
    items.check("drop_item", 7)
    items.check("drop_item", 8)
    assert items.check("walk", True, 3, 1, 7, 25) == 543721
    assert items.check("walk", True, 3, 1, 8, 45) == 543721


def test_6_3_what_is_deleted_is_not_seen_and_the_walk_goes_on(items: Lanes) -> None:
    assert items.check("walk", False, 3, 2, 4, 0) == 1235
    assert items.check("walk", False, 3, 2, 3, 0) == 1235  # the row it stands on
    assert items.check("walk", False, 5, 2, 1, 0) == 125  # behind
    assert items.check("walk", True, 5, 2, 5, 0) == 52


def test_6_4_what_moves_ahead_is_seen_again_and_behind_is_missed(items: Lanes) -> None:
    assert items.check("walk", False, 3, 3, 1, 45) == 123415
    assert items.check("walk", False, 3, 3, 5, 25) == 2341  # order before: 2, 3, 4, 1, 5
    assert items.check("walk", True, 4, 3, 1, 15) == 143521


def test_6_5_a_loop_that_pushes_rows_ahead_meets_them_again(items: Lanes) -> None:
    assert items.check("push_all", -200) == 5
    assert items.check("push_all", 1_000) == 5  # beyond the range's end
    assert items.check("push_all", -1_000) == 0


def test_6_6_equal_keys_are_ordered_by_slot(items: Lanes) -> None:
    for id in range(1, 6):
        items.check("act", 3, id, 30)
    assert items.check("walk", False, 0, 0, 0, 0) == 12345
    assert items.check("walk", True, 3, 1, 7, 30) == 54321  # its slot is behind, in this direction
    assert items.check("walk", False, 3, 1, 8, 30) == 1234578
    assert items.check("ends") == (1, 1)


def test_6_7_bounds_stay_what_they_were(items: Lanes) -> None:
    assert items.check("walk", False, 3, 3, 4, 100) == 1235  # stop=100 is outside
    assert items.check("walk", False, 3, 1, 7, -1) == 1235


def test_6_8_loops_in_loops(items: Lanes) -> None:
    assert items.check("nested", at.CURSORS) == 15 * at.CURSORS
    crashes(items, "nested", at.CURSORS + 1)
    assert items.check("nested", 5) == 15 * 5


# 7. Keys, references, defaults ------------------------------------------------------------------


def test_7_1_a_key_that_counts_goes_on_from_the_highest(items: Lanes) -> None:
    assert items.check("counted_item", 20) == 6
    assert items.check("new_item", 50, 0, 21, 1) == 50
    assert items.check("counted_item", 22) == 51
    assert items.check("new_item", -3, 0, 23, 1) == -3
    items.check("drop_item", 51)
    assert items.check("counted_item", 24) == 52
    items.check("drop_item", 52)
    assert items.check("new_item", 0, 0, 25, 1) == 53  # 0 asks for the next number
    items.check("drop_item", 53)
    rejected(items, "not_unique", "counted_item", 1)
    assert items.check("counted_item", 26) == 54  # what was undone has taken no number


def test_7_2_a_key_is_there_once(items: Lanes) -> None:
    assert rejected(items, "duplicate_key", "new_item", 1, 0, 50, 1) == {"table": "item", "key": 1}
    items.check("drop_item", 1)
    assert items.check("new_item", 1, 0, 50, 1) == 1


def test_7_3_references_are_checked_when_they_are_written(items: Lanes) -> None:
    details = {"table": "owner", "key": 9}
    assert rejected(items, "not_found", "new_item", 6, 0, 6, 9) == details
    assert rejected(items, "not_found", "set_item", 1, 1, 9) == details
    assert rejected(items, "not_found", "new_perhaps", 1, None, None, 9) == details
    items.check("new_perhaps", 1, None, None, None)
    assert rejected(items, "not_found", "set_perhaps", 1, 1, "a", 9) == details
    items.check("drop_owner", 1)  # nobody looks who refers to it
    assert items.check("two_rows", 1) == (10, 17, True)
    assert rejected(items, "not_found", "set_item", 1, 1, 1)["key"] == 1


def test_7_4_defaults_stand_for_what_is_left_out(lanes: Lanes) -> None:
    lanes.check("new_word", 1, "name")
    assert lanes.call("words", 1) == ("name", "untitled", b"\0\0\0", b"sixteen bytes ok")
    lanes.check("new_number", 1)
    found = lanes.call("numbers", 1)
    assert found == (0, 0, 0, False, 1, 0, 0.0, 0.0, 0.0, 0, 0)


def test_7_5_the_order_of_checks(items: Lanes) -> None:
    """References, values, the key, room, unique indexes: the first that fails is told."""
    for id in range(6, 10):
        items.check("new_item", id, 0, id, 1)
    rejected(items, "not_found", "new_item", 1, 0, 1, 9)
    rejected(items, "duplicate_key", "new_item", 1, 0, 1, 1)
    rejected(items, "table_full", "new_item", 10, 0, 1, 1)
    items.check("drop_item", 9)
    rejected(items, "not_unique", "new_item", 10, 0, 1, 1)
    for bench in items.benches:
        with pytest.raises(Rejected, match="not_found"), bench.transaction() as db:
            db.item.insert(id=1, rank=2**64, owner=9)
        with pytest.raises(Rejected, match="bad_value"), bench.transaction() as db:
            db.item.insert(id=1, rank=2**64, owner=1)


def test_7_6_get_or_insert_leaves_a_row_as_it_is(items: Lanes) -> None:
    assert items.check("get_or_new", 1, 77, 999) == 1
    assert items.check("get_or_new", 6, 77, 1) == 77
    rejected(items, "not_found", "get_or_new", 7, 78, 999)


def test_7_7_unique_holds_after_every_operation(items: Lanes) -> None:
    assert rejected(items, "not_unique", "swap_serials", 1, 2, False)["index"] == "by_serial"
    assert items.check("swap_serials", 1, 2, True) is None
    assert items.check("get_or_new", 1, 0, 1) == 2


# 8. Time ----------------------------------------------------------------------------------------


def test_8_1_a_transaction_has_one_time_and_a_number(lanes: Lanes) -> None:
    first, number, same = lanes.check("now")
    assert (first, same) == (1_000, True)
    lanes.advance(1.5)
    assert lanes.check("now") == (first + 1_500_000_000, number + 1, True)
    lanes.advance(-1_000)
    assert lanes.check("now") == (first + 1_500_000_000, number + 2, True)  # never back


def test_8_2_random_numbers_follow_from_seed_and_number(lanes: Lanes) -> None:
    lanes.call("new_owner", 1)
    drawn = [lanes.check("draw") for _ in range(3)]
    assert len({number for numbers in drawn for number in numbers[:2]}) == 6
    assert drawn[1] == tuple(reference.draws(seed=5, sequence=3))
    # Given up by the compiled lane when it had drawn already, and undone.
    assert lanes.check("draw_and_give_up", 2**40) == 2**40
    numbers = reference.Numbers(seed=5, sequence=5)
    assert [bench.db.item[1].serial for bench in lanes.benches] == [numbers.integers(0, 10**6)] * 2


def test_8_3_random_numbers_are_within_their_bounds(items: Lanes) -> None:
    least, greatest, hits = items.check("draw_often", -2, 3, 5_000)
    assert (least, greatest) == (-2, 2)
    assert 850 < hits < 1_150
    assert items.check("draw_often", INT_MIN, INT_MAX, 100)[0] < 0
    assert items.check("draw_often", 7, 8, 10) == (7, 7, 10)
    assert 0 <= items.check("draw")[0] < 1
    for low, high in ((3, 3), (3, 2)):
        crashes(items, "draw_between", low, high)
    told = failure_of(items, "draw_between", 3, 2)
    assert told == "ValueError: there is no int from 3 up to, but not including, 2"
    assert failure_of(items, "draw_often", 0, 2**63, 1).startswith("ValueError: 0 or 9223372036")


def test_8_4_a_query_has_no_random_numbers(lanes: Lanes) -> None:
    db = lanes.benches[0].db
    with pytest.raises(ReadOnly, match="a query has no number of its own"):
        semantics.draw_in_a_query(db)
    crashes(lanes, "draw_in_a_query")


# 9. Errors and undo -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", range(6))
def test_9_1_any_exception_undoes_everything(items: Lanes, how: int) -> None:
    if how in (0, 3, 4):
        code = {0: "as_written", 3: "duplicate_key", 4: "not_found"}[how]
        details = rejected(items, code, "fail", how)
        assert how != 0 or details == {"how": 0, "owner": 50}
    else:
        crashes(items, "fail", how)


def test_9_2_an_operation_happens_or_does_not(items: Lanes) -> None:
    for what in range(3):
        assert items.check("catch", what) == 5  # five rows: what was caught is undone
        assert items.check("two_rows", 1)[0] == 11  # and what was written before is not

    def catching(db: Db) -> int:
        try:
            return db.small[1].id
        except Rejected:
            return 0

    refused("can't catch errors", catching)


def test_9_3_a_transaction_that_writes_too_much_is_rejected(items: Lanes) -> None:
    for bench in items.benches:
        bench._engine.db.space.scratch[at.S_UNDO_LIMIT] = 4_000
    rejected(items, "transaction_too_large", "write_much", 10_000)
    assert items.check("write_much", 10) is None


def test_9_4_what_the_compiled_lane_can_not_tell_the_interpreter_does(items: Lanes) -> None:
    assert failure_of(items, "fail", 1) == "ValueError: a bug"
    assert failure_of(items, "fail", 2).startswith("ZeroDivisionError")
    assert failure_of(items, "fail", 5) == "AssertionError: never"


def failure_of(lanes: Lanes, name: str, *arguments: Any) -> str:
    """The error that a handler ends with, by its type and text, the same in both lanes."""
    told = []
    for bench in lanes.benches:
        engine = bench._engine
        number = next(op.number for op in bench.app.operations if op.name == name)
        function = engine._operations[number][1]
        with pytest.raises(Exception) as error:
            engine.transact(function, *arguments)
        told.append(f"{type(error.value).__name__}: {error.value}")
    assert told[0] == told[1]
    return told[0]


# 10. What is not compiled -----------------------------------------------------------------------


def test_10_1_one_variable_has_one_type() -> None:
    def mixed(db: Db, id: int) -> float:
        value = 1.5
        if id > 3:
            value = 2
        return value

    refused("make it one of them", mixed)


STATEMENTS = {
    "can't catch errors": "try:\n        pass\n    finally:\n        pass",
    "`with` is not compiled": "with db: pass",
    "can't be a generator": "yield 1",
    "generator expressions": "any(row.ready for row in db.small)",
    "lists are not compiled": "[row.id for row in db.small]",
    "lists are compiled when they begin empty": "rows = [1]",
    "say what it holds": "rows = []",
    "dicts are not compiled": "rows = {1: 2}",
    "sets are not compiled": "rows = {1}",
    "lambdas are not compiled": "f = lambda: 1",
    "functions inside a handler": "def f(): pass",
    "this f-string is not compiled": "x = f'{db.now!r}'",
    "`del` is not compiled": "x = 1; del x",
    "can't change globals": "global NAN",
    "can't import": "import math",
}
OPERATORS = {
    r"\*\* is not compiled; multiply": "db.now ** 2",
    "@ is not compiled": "db.now @ 2",
    "~ is not compiled; write -x - 1": "~db.now",
    "a plus sign is not compiled": "+db.now",
    "`is` compares with None alone": "db.small[1] is db.small[2]",
    "`in` is compiled for tables": "db.small[1].size in (1.0, 2.0)",
}
TABLE = {"changes": 1}


def handler_of(tmp_path: Path, statement: str) -> Any:
    """A handler with this statement in it, from a file, since its source is looked at."""
    path = tmp_path / "handler.py"
    path.write_text(f"def handler(db):\n    {statement}\n")
    known: dict[str, Any] = {"TABLE": TABLE, "NAN": NAN}
    exec(compile(path.read_text(), str(path), "exec"), known)
    linecache.checkcache()
    return known["handler"]


@pytest.mark.parametrize("told", STATEMENTS)
def test_10_2_statements(told: str, tmp_path: Path) -> None:
    refused(told, handler_of(tmp_path, STATEMENTS[told]))


@pytest.mark.parametrize("told", OPERATORS)
def test_10_3_operators(told: str, tmp_path: Path) -> None:
    refused(told, handler_of(tmp_path, f"x = {OPERATORS[told]}"))


@pytest.mark.parametrize("what", ["TABLE", "print", "sorted", "isinstance"])
def test_10_4_things_from_outside(what: str, tmp_path: Path) -> None:
    refused(f"{what} is not part of what can be compiled", handler_of(tmp_path, f"x = {what}"))


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (str, r"say how long it is: Annotated\[str, text\(16\)\]"),
        (bytes, r"say how long it is: Annotated\[bytes, data\(16\)\]"),
        (dict[str, int], "can't take dict"),
        (list[int], "say how many items it has"),
        (Annotated[str, text(513)], "512 at most"),
    ],
)
def test_10_5_values_without_a_greatest_size(annotation: Any, told: str) -> None:
    def handler(db: Db, value: Any) -> None:
        return None

    handler.__annotations__["value"] = annotation
    refused(told, handler)


@pytest.mark.parametrize("what", ["db.small.columns()", "db.caller"])
def test_10_6_parts_of_the_database(what: str, tmp_path: Path) -> None:
    name = what.split(".")[-1]
    refused(re.escape(name) + " is for handlers that are not compiled", handler_of(tmp_path, what))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("{}[0]", "parts of text"),
        ("{}[1:]", "parts of text"),
        ("{}.upper()", "upper"),
        ("f'{{{}:>9}}'", "f-strings are compiled of text and ints|is not compiled"),
    ],
)
def test_10_7_parts_of_text(what: str, told: str, tmp_path: Path) -> None:
    refused(told, handler_of(tmp_path, "x = " + what.format("db.small[1].name")))


# 11. Lists and sets that a handler builds --------------------------------------------------------


def test_11_1_a_list_is_one_list_under_all_its_names(lanes: Lanes) -> None:
    assert lanes.check("build_list", 3, 1) == [3, 2, 1, 0, 2]


def test_11_2_a_set_has_each_int_once(lanes: Lanes) -> None:
    assert lanes.check("count_distinct", 0, 1) == (0, False)
    assert lanes.check("count_distinct", 100, 7) == (7, True)


def test_11_3_what_is_too_large_is_left_to_the_interpreter(lanes: Lanes) -> None:
    count = BUILT_WORDS
    assert len(lanes.check("build_list", count, 0)) == count + 2
    assert lanes.check("count_distinct", count, count) == (count, True)
    crashes(lanes, "build_list", 3, 9)


# The document -----------------------------------------------------------------------------------


def test_the_document_and_the_tests_have_the_same_points() -> None:
    told = re.findall(r"^- \*\*(\d+\.\d+)\*\* ", DOCUMENT.read_text(), re.MULTILINE)
    tests = [
        ".".join(found.groups())
        for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
        if (found := re.match(r"test_(\d+)_(\d+)_", name))
    ]
    assert len(set(told)) == len(told)
    assert sorted(told) == sorted(tests)
    order = [tuple(map(int, number.split("."))) for number in told]
    assert order == sorted(order)
