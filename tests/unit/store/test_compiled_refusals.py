"""What compiled handlers can't do: each is refused with its line, and what is wrong there."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from tests.support.things import Kind, Name, application

import diptych as dp
from diptych import App, Db, Rejected, items, text
from diptych.errors import DeclarationError

SETTINGS = {"mutable": 1}


@dataclass
class Made:
    size: int


class Pair(NamedTuple):
    left: int
    right: int


# Each is refused at the line that ends with "# here", with a message that says so.


def typo(db: Db) -> int:
    """table 'thing' has no column 'cuont'; did you mean 'count'?"""
    return db.thing[1].cuont  # here


def typo_in_table(db: Db) -> int:
    """there is no table 'thnig'; did you mean 'thing'?"""
    return len(db.thnig)  # here


def typo_in_index(db: Db) -> int:
    """table 'thing' has no index 'by_nmae'; did you mean 'by_name'?"""
    row = db.thing.by_nmae.first()  # here
    return 0 if row is None else 1


def typo_in_insert(db: Db) -> None:
    """table 'thing' has no column 'nmae'; did you mean 'name'?"""
    db.thing.insert(id=1, nmae="a")  # here


def typo_in_method(db: Db) -> None:
    """table 'thing' has no index 'isnert'; did you mean 'insert'?"""
    db.thing.isnert(id=1)  # here


def float_into_int(db: Db) -> None:
    """thing.count holds int, not float"""
    db.thing[1].count = 2.5  # here


def float_into_int_on_insert(db: Db, size: float) -> None:
    """thing.count holds int, not float"""
    db.thing.insert(id=1, count=size)  # here


def int_into_bool(db: Db) -> None:
    """thing.ready holds bool, not int"""
    db.thing[1].ready = 1  # here


def int_into_text(db: Db) -> None:
    """thing.name holds text, not int"""
    db.thing[1].name = 1  # here


def long_literal(db: Db) -> None:
    """thing.name holds 8 bytes, too few for 'nine bytes'"""
    db.thing[1].name = "nine bytes"  # here


def short_literal(db: Db) -> None:
    """thing.tag holds data(3), not data(2)"""
    db.thing[1].tag = b"ab"  # here


def no_bytes(db: Db) -> bool:
    """bytes are compiled when they are 1 to 512"""
    return db.thing[1].tag == b""  # here


def compared_lengths(db: Db) -> bool:
    """data(3) == data(2) is not compiled"""
    return db.thing[1].tag == b"ab"  # here


def none_assigned(db: Db) -> None:
    """thing.count holds int, not None"""
    db.thing[1].count = None  # here


def measured(db: Db) -> int:
    """len() of bytes is not compiled"""
    return len(db.thing[1].tag)  # here


def taken_apart(db: Db) -> bool:
    """of the parts of text the first ones are compiled alone: text[:n]"""
    return db.thing[1].name[0] == "a"  # here


def cut_off(db: Db) -> bool:
    """parts of text are compiled as text[:n] alone"""
    return db.thing[1].name[1:] == "a"  # here


def cut_by_a_float(db: Db) -> bool:
    """text is cut behind an int of characters, not float"""
    return db.thing[1].name[: db.thing[1].size] == "a"  # type: ignore[misc]  # here


def text_and_int(db: Db) -> bool:
    """+ of text(8) and int is not compiled"""
    return db.thing[1].name + db.thing[1].count == "a"  # type: ignore[operator]  # here


def formatted_float(db: Db) -> bool:
    """f-strings are compiled of text and ints, not of float"""
    return f"{db.thing[1].size}" == "a"  # here


def formatted_perhaps(db: Db) -> bool:
    """f-strings are compiled of text and ints, not of int | None"""
    return f"{db.thing[1].limit}" == "a"  # here


def formatted_bool(db: Db) -> bool:
    """f-strings are compiled of text and ints, not of bool"""
    return f"{db.thing[1].ready}" == "a"  # here


def formatted_otherwise(db: Db) -> bool:
    """the format '+' is not compiled; widths as 02 are"""
    return f"{db.thing[1].count:+}" == "a"  # here


def formatted_text(db: Db) -> bool:
    """f-strings are compiled of text and ints, not of text(8)"""
    return f"{db.thing[1].name:5}" == "a"  # here


def formatted_repr(db: Db) -> bool:
    """this f-string is not compiled; write {name}, or {name:02} for an int"""
    return f"{db.thing[1].name!r}" == "a"  # here


def long_text(db: Db, name: Annotated[str, text(300)]) -> bool:
    """text of up to 1200 bytes is not compiled; 1024 is"""
    return name + name + name + name == "a"  # here


def sought_in_text(db: Db) -> bool:
    """`in` looks for text in text, not for int"""
    return 1 in db.thing[1].name  # type: ignore[operator]  # here


def heap_read(db: Db) -> bool:
    """thing.title is a plain str, which compiled handlers neither read nor write"""
    return db.thing[1].title == "a"  # here


def heap_written(db: Db) -> None:
    """thing.image is a plain bytes, which compiled handlers neither read nor write"""
    db.thing[1].image = b"a"  # here


def heap_inserted(db: Db) -> None:
    """use Annotated[str, text(40)], or leave this handler interpreted: compiled=False"""
    db.thing.insert(id=1, title="a")  # here


def heap_default(db: Db) -> None:
    """the default of book.title, a plain str, is not empty"""
    db.book.insert(id=1)  # here


def long_read(db: Db) -> bool:
    """thing.essay has 600 bytes, and compiled handlers take 512 at most"""
    return db.thing[1].essay == "a"  # here


def key_assigned(db: Db) -> None:
    """thing.id is part of the key and can't be assigned"""
    db.thing[1].id = 2  # here


def wrong_key(db: Db) -> int:
    """the key of thing is (id), not (int, int)"""
    return db.thing[1, 2].count  # here


def key_of_text(db: Db, name: Name) -> int:
    """thing.id holds int, not text(8)"""
    return db.thing[name].count  # here


def value_left_out(db: Db) -> None:
    """a new row of 'part' needs a value for 'thing'"""
    db.part.insert()  # here


def other_tables_row(db: Db) -> None:
    """part.delete takes one of its rows, not a row of thing"""
    db.part.delete(db.thing[1])  # here


def caught(db: Db) -> int:
    """a handler can't catch errors"""
    try:  # here
        return db.thing[1].count
    except Rejected:
        return 0


def formatted(db: Db, number: int) -> None:
    """the code of a rejection must be a literal"""
    raise Rejected(f"no_{number}")  # here


def made_up_code(db: Db, name: Name) -> None:
    """the code of a rejection must be a literal"""
    raise Rejected(name)  # here


def made_up_through_a_module(db: Db, name: Name) -> None:
    """the code of a rejection must be a literal"""
    raise dp.Rejected(name)  # here


def any_of(db: Db) -> bool:
    """generator expressions are not compiled"""
    return any(row.ready for row in db.thing)  # here


def built_list(db: Db) -> int:
    """say what it holds: found: list[Line] = []"""
    found = []  # here
    for row in db.thing:
        found.append(row.count)
    return len(found)


def begun_list(db: Db) -> int:
    """lists are compiled when they begin empty"""
    return len([1, 2])  # here


def list_of_anything(db: Db) -> int:
    """a compiled handler can't take str; say how long it is"""
    found: list[str] = []  # here
    return len(found)


def list_of_nothing_known(db: Db) -> int:
    """list[Something]: name 'Something' is not defined"""
    found: list[Something] = []  # type: ignore[name-defined]  # noqa: F821  # here
    return len(found)


def wrong_item(db: Db) -> int:
    """the list holds int, not float"""
    found: list[int] = []
    found.append(db.thing[1].size)  # type: ignore[arg-type]  # here
    return len(found)


def list_popped(db: Db) -> int:
    """a list's 'pop' is not compiled; append, len and loops are"""
    found: list[int] = []
    return found.pop()  # here


def set_of_text(db: Db) -> int:
    """the set holds int, not text(8)"""
    found: set[str] = set()
    found.add(db.thing[1].name)  # here
    return len(found)


def set_sought(db: Db) -> bool:
    """the set holds int, not float"""
    found: set[int] = set()
    return db.thing[1].size in found  # here


def set_changed(db: Db) -> int:
    """a set's 'discard' is not compiled; add, len and `in` are"""
    found: set[int] = set()
    found.discard(1)  # here
    return len(found)


def set_walked(db: Db) -> int:
    """set(int) can't be walked"""
    found: set[int] = set()
    for each in found:  # here
        return each
    return 0


def list_changed(db: Db) -> list[int]:
    """items can't be assigned"""
    found: list[int] = []
    found[0] = 1  # here
    return found


def enum_called(db: Db) -> int:
    """Kind() is not compiled; its members compare with ints"""
    return Kind(db.thing[1].count).value  # here


def mixed_numbers(db: Db, count: int) -> float:
    """make it one of them"""
    value = 1.5
    if count > 3:
        value = 2
    return value  # here


def compared_numbers(db: Db) -> bool:
    """int < float is not compiled"""
    return db.thing[1].count < db.thing[1].size  # here


def compared_kinds(db: Db) -> bool:
    """text(8) == int is not compiled"""
    return db.thing[1].name == 5  # here


def searched_tuple(db: Db) -> bool:
    """`in` is compiled for tables, text in text, and an int in a tuple of ints"""
    return db.thing[1].name in ("a", "b")  # here


def identical(db: Db) -> bool:
    """`is` compares with None alone"""
    return db.thing[1] is db.thing[2]  # here


def power(db: Db) -> int:
    """** is not compiled; multiply"""
    return db.thing[1].count ** 2  # here


def rounded(db: Db) -> int:
    """int() is compiled for ints and bools alone"""
    return int(db.thing[1].size)  # here


def whole_columns(db: Db) -> int:
    """columns() is for handlers that are not compiled"""
    return len(db.thing.columns())  # here


def read_setting(db: Db) -> int:
    """SETTINGS is not part of what can be compiled"""
    return SETTINGS["mutable"]  # here


def printed(db: Db) -> None:
    """print is not part of what can be compiled"""
    print(db.now)  # here


def appended(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> None:
    """Unknown attribute 'append'"""
    numbers.append(db.now)  # here


def item_set(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> None:
    """items can't be assigned"""
    numbers[0] = 1  # here


def sliced(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> int:
    """parts of text are compiled as text[:n] alone"""
    return numbers[1:][0]  # here


def indexed_by_float(db: Db, numbers: Annotated[list[int], items(0, 3)], at: float) -> int:
    """a list is indexed by an int, not by float"""
    return numbers[at]  # here


def searched_list(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> bool:
    """`in` is compiled for tables, text in text, and an int in a tuple of ints"""
    return 1 in numbers  # here


def compared_lists(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> bool:
    """is not compiled; compare values of one type"""
    return numbers == numbers  # here


def catching(db: Db) -> int:
    """a handler can't catch errors"""
    return caught(db)


def helped(db: Db) -> int:
    """table 'thing' has no column 'cuont'; did you mean 'count'?"""
    return typo(db)


def random_of_a_float(db: Db) -> int:
    """integers() takes ints, not float"""
    return db.random.integers(1, 1.5)  # here


def random_of_perhaps(db: Db) -> int:
    """integers() takes ints, not int | None"""
    return db.random.integers(db.thing[1].limit)  # here


def random_of_nothing(db: Db) -> int:
    """integers(): missing a required argument: 'low'"""
    return db.random.integers()  # here


def random_with_a_size(db: Db) -> float:
    """random() takes no arguments"""
    return db.random.random(5)  # here


def random_by_another_name(db: Db) -> int:
    """db.random has no 'integer'; did you mean 'integers'?"""
    return db.random.integer(5)  # here


def caller_read(db: Db) -> bool:
    """db.caller is for handlers that are not compiled; leave this handler interpreted"""
    return db.caller == "x"  # here


def undefined(db: Db) -> int:
    """nothing_here is not defined"""
    return nothing_here + 1  # type: ignore[name-defined,no-any-return]  # noqa: F821  # here


def shouted(db: Db, name: Name) -> bool:
    """text has no upper() in compiled code; compare it"""
    return name.upper() == name  # here


def unknown_method(db: Db, count: int) -> int:
    """int has no bit_length in compiled code"""
    return count.bit_length()  # here


def summed(db: Db) -> int:
    """sum is not part of what can be compiled; write a loop"""
    return sum((1, 2))  # here


def sorted_keys(db: Db) -> int:
    """sorted is not part of what can be compiled; walk an index's range()"""
    return sorted((1, 2))[0]  # here


def typed(db: Db, count: int) -> bool:
    """isinstance is not part of what can be compiled; types are known"""
    return isinstance(count, int)  # here


def timed(db: Db) -> int:
    """the transaction's time is db.now"""
    return time.time_ns()  # here


def with_numpy(db: Db) -> float:
    """numpy is for interpreted queries"""
    return float(np.sqrt(4.0))  # here


def data_class(db: Db) -> int:
    """Made is not part of what can be compiled; make it a NamedTuple"""
    return Made(1).size  # here


def taken_row(db: Db) -> int:
    """a row can't be taken apart"""
    first, _ = db.thing[1]  # here
    return int(first)


def walked_int(db: Db, count: int) -> int:
    """int can't be walked"""
    for each in count:  # type: ignore[attr-defined]  # here
        return int(each)
    return 0


def misfit(db: Db, count: int) -> int:
    """the call does not fit (db: 'Db') -> 'int': too many"""
    return typo(db, count)  # type: ignore[call-arg]  # here


REFUSED = [
    undefined,
    shouted,
    unknown_method,
    summed,
    sorted_keys,
    typed,
    timed,
    with_numpy,
    data_class,
    taken_row,
    walked_int,
    misfit,
    typo,
    typo_in_table,
    typo_in_index,
    typo_in_insert,
    typo_in_method,
    float_into_int,
    float_into_int_on_insert,
    int_into_bool,
    int_into_text,
    long_literal,
    short_literal,
    no_bytes,
    compared_lengths,
    none_assigned,
    measured,
    taken_apart,
    cut_off,
    cut_by_a_float,
    text_and_int,
    formatted_float,
    formatted_perhaps,
    formatted_bool,
    formatted_otherwise,
    formatted_text,
    formatted_repr,
    long_text,
    sought_in_text,
    heap_read,
    heap_written,
    heap_inserted,
    heap_default,
    long_read,
    key_assigned,
    wrong_key,
    key_of_text,
    value_left_out,
    other_tables_row,
    caught,
    formatted,
    made_up_code,
    any_of,
    built_list,
    begun_list,
    list_of_anything,
    list_of_nothing_known,
    wrong_item,
    list_popped,
    list_changed,
    set_of_text,
    set_sought,
    set_changed,
    set_walked,
    enum_called,
    mixed_numbers,
    compared_numbers,
    compared_kinds,
    searched_tuple,
    identical,
    power,
    rounded,
    whole_columns,
    read_setting,
    printed,
    catching,
    helped,
    appended,
    item_set,
    sliced,
    indexed_by_float,
    searched_list,
    compared_lists,
    random_of_a_float,
    random_of_perhaps,
    random_of_nothing,
    random_with_a_size,
    random_by_another_name,
    caller_read,
]


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_what_can_not_be_compiled_is_refused_with_its_line(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(App, "check_names", lambda app: None)  # which finds some of them, too
    guilty = {helped: typo, catching: caught}.get(function, function)
    source, first = inspect.getsourcelines(guilty)
    line = first + next(i for i, text in enumerate(source) if text.endswith("# here\n"))
    with pytest.raises(DeclarationError) as no, application(function).open(lane="compiled"):
        pass
    told = str(no.value)
    assert told.startswith(f"{inspect.getfile(function)}:{line}: "), told
    assert str(function.__doc__) in told


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (str, "say how long it is"),
        (bytes, "say how long it is"),
        (Annotated[str, text(513)], "512 at most"),
        (list[int], r"say how many items it has: Annotated\[list\[Line\], items\(0, 15\)\]"),
        (tuple[int, ...], "say how many"),
        (Annotated[list[int], items(1, 9)] | None, "an empty list instead of None"),
        (Annotated[list[list[int]], items(1, 9)], "can't take list"),
        (Annotated[list[tuple[int, int]], items(1, 124)], "too large to compile"),
        (dict[str, int], "compiled=False"),
        (Any, "compiled=False"),
    ],
)
def test_a_parameter_that_words_can_not_hold_is_refused(annotation: Any, told: str) -> None:
    def handler(db: Db, value: Any) -> None:
        return None

    handler.__annotations__ = {"db": Db, "value": annotation, "return": None}
    with pytest.raises(DeclarationError, match=told), application(handler).open(lane="compiled"):
        pass


def returned_list(db: Db, numbers: Annotated[list[int], items(0, 3)]) -> list[int]:
    """a compiled handler can't return"""
    return numbers


def test_a_list_is_no_result() -> None:
    with (
        pytest.raises(DeclarationError, match="a compiled handler can't return"),
        application(returned_list).open(lane="compiled"),
    ):
        pass
