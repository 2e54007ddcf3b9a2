"""What a user imports to declare an application: tables, transactions, queries.

Declarations only: an `App` collects and checks them while the application's module is imported,
with errors that name the place. Nothing here touches memory, and neither numpy nor Numba is
imported. Decorators return what they decorate unchanged, so handlers can be called, tested and
stepped into as the plain functions that they are.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    overload,
)

import diptych_client
from diptych import declarations
from diptych.determinism import Hazard, hazards
from diptych.errors import DeclarationError, did_you_mean
from diptych.names import wrong_names
from diptych.rejections import rejection_codes
from diptych.schema import (
    MISSING,
    Between,
    Bits,
    Data,
    IndexMark,
    Items,
    Key,
    Reference,
    Scaled,
    TableSpec,
    Text,
    Unit,
    ValueType,
    plain_default,
    type_hints,
    value_type,
)

if TYPE_CHECKING:
    from diptych.testing import Bench

R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

i8 = Annotated[int, Bits(8)]
i16 = Annotated[int, Bits(16)]
i32 = Annotated[int, Bits(32)]
i64 = Annotated[int, Bits(64)]
u8 = Annotated[int, Bits(8, signed=False)]
u16 = Annotated[int, Bits(16, signed=False)]
u32 = Annotated[int, Bits(32, signed=False)]
u64 = Annotated[int, Bits(64, signed=False)]
f32 = Annotated[float, Bits(32)]
Time = Annotated[int, Unit("time")]
"""Nanoseconds since 1970, UTC."""
Day = Annotated[int, Unit("day"), Bits(32)]
"""Days since 1970-01-01."""

CAPACITY_DEFAULT = 1_000_000


class Columns(Protocol):
    """A table's live rows as numpy arrays, one attribute a column. The arrays are read-only.

    `write` sets columns of all these rows, to one value or to one each, in a transaction.
    `arrow()` makes a pyarrow.Table of them, `df()` a pandas.DataFrame.
    """

    def __getattr__(self, column: str) -> Any: ...
    def __getitem__(self, column: str) -> Any: ...
    def write(self, **columns: Any) -> None: ...
    def __len__(self) -> int: ...


class Index(Protocol[R_co]):
    """An ordered index. `prefix` gives values for its first columns."""

    def range(
        self, *prefix: Any, start: Any = ..., stop: Any = ..., reverse: bool = ...
    ) -> Iterator[R_co]: ...
    def first(self, *prefix: Any) -> R_co | None: ...
    def last(self, *prefix: Any) -> R_co | None: ...


class Table(Protocol[R_co]):
    """A table as handlers see it: dict manners by key, rows by insert, indexes as attributes."""

    def __getitem__(self, key: Any) -> R_co: ...
    def __contains__(self, key: Any) -> bool: ...
    def __iter__(self) -> Iterator[R_co]: ...
    def __len__(self) -> int: ...
    def get(self, key: Any) -> R_co | None: ...
    def insert(self, **columns: Any) -> R_co: ...
    def get_or_insert(self, **columns: Any) -> R_co: ...
    def delete(self, row: Any) -> None: ...
    def columns(self, **equals: Any) -> Columns: ...
    def arrow(self) -> Any: ...
    def df(self) -> Any: ...
    def __getattr__(self, index: str) -> Index[R_co]: ...


class Random(Protocol):
    """Random numbers of a transaction: the same ones whenever and wherever that transaction runs.

    They are not secret: whoever knows some of them can find out the others.
    """

    def random(self) -> float:
        """A float from 0 up to but not including 1, of 53 bits."""
        ...

    def integers(self, low: int, high: int | None = None) -> int:
        """An int from `low` up to but not including `high`; with one bound, from 0 up to that.

        Errors: ValueError where there is no such int, or a bound is beyond 64 bits.
        """
        ...


class Db:
    """What a handler gets. Tables are attributes; subclass it to give them types for editors.

    `now`: time of the transaction (in a query: of the last one seen), ns since 1970.
    `sequence`: the number of the transaction (in a query: of the last one seen).
    `caller`: the name of the caller's token, "" without one.
    `random`: random numbers, in transactions alone.
    """

    now: int
    sequence: int
    caller: str
    random: Random

    if TYPE_CHECKING:

        def __getattr__(self, table: str) -> Any: ...


def key(*, auto: bool = False) -> Any:
    """Mark a column as the key, or as part of a composite key. `auto`: the table counts it up."""
    return Key(auto)


def ref(table: type) -> Any:
    """Mark a column as the key of a row in another table, checked on insert."""
    return Reference(table)


def ordered(*columns: str) -> Any:
    """An index in ascending order of these columns."""
    return IndexMark(columns, unique=False)


def unique(*columns: str) -> Any:
    """An ordered index in which no two rows may agree on all columns."""
    return IndexMark(columns, unique=True)


def text(size_bytes: int) -> Any:
    """A column or parameter of text that is at most `size_bytes` bytes long in UTF-8."""
    return Text(size_bytes)


def data(size_bytes: int) -> Any:
    """A column or parameter of bytes that is exactly `size_bytes` long."""
    return Data(size_bytes)


def bits(size: int, *, signed: bool = True) -> Any:
    """How many bits a number takes in a table: `Annotated[Side, bits(8)]`. Ints have aliases."""
    return Bits(size, signed)


def scaled(digits: int) -> Any:
    """An int that people see as a decimal with so many digits."""
    return Scaled(digits)


def between(low: float, high: float) -> Any:
    """Bounds, both allowed: of an argument, checked before the handler runs, and of a column."""
    return Between(low, high)


def items(low: int, high: int) -> Any:
    """How many items a list argument may have."""
    return Items(low, high)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation; `default` is MISSING when it must be given."""

    name: str
    value: ValueType
    default: Any = MISSING


@dataclass(frozen=True)
class Operation:
    """A transaction or a query, as hello describes it. `number`: its place in `App.operations`."""

    name: str
    number: int
    kind: Literal["transaction", "query"]
    function: Callable[..., Any]
    compiled: bool
    parameters: tuple[Parameter, ...]
    result: ValueType
    codes: tuple[str, ...]
    doc: str

    def describe(self) -> dict[str, Any]:
        """The operation as hello tells it (docs/protocol.md)."""
        return {
            "name": self.name,
            "number": self.number,
            "kind": self.kind,
            "parameters": [
                {"name": p.name, "type": p.value.describe()}
                | ({} if p.default is MISSING else {"default": plain_default(p.default, p.name)})
                for p in self.parameters
            ],
            "result": self.result.describe(),
            "codes": list(self.codes),
            "doc": self.doc,
        }


class App:
    """An application: its tables, its operations, and how it begins.

    `version` goes up when the tables change in a way that needs a migration. `compiled` is the
    default for its handlers; each may differ. Errors: `DeclarationError`.
    """

    def __init__(self, name: str, *, version: int = 1, compiled: bool = False) -> None:
        if not name.isidentifier():
            raise DeclarationError(f"App({name!r}): the name must be an identifier")
        if not isinstance(version, int) or version < 1:
            raise DeclarationError(f"App({name!r}): the version must be 1 or more, not {version!r}")
        self.name = name
        self.version = version
        self.compiled = compiled
        self.tables: dict[str, TableSpec] = {}
        self.operations: list[Operation] = []
        self.setup_function: Callable[..., None] | None = None
        self.invariants: list[Callable[..., bool]] = []
        self.migrations: dict[int, Callable[..., None]] = {}
        self._names_checked = 0  # how many handlers there were

    def __repr__(self) -> str:
        return f"<App {self.name}: {len(self.tables)} tables, {len(self.operations)} operations>"

    @overload
    def table(self, cls: C, /) -> C: ...
    @overload
    def table(self, *, capacity: int = ..., heap_bytes: int | None = ...) -> Callable[[C], C]: ...
    def table(
        self, cls: Any = None, *, capacity: int = CAPACITY_DEFAULT, heap_bytes: int | None = None
    ) -> Any:
        """Declare a table. `capacity` is its most rows; memory is taken as rows come.

        `heap_bytes`: the most that the values of its plain str and bytes columns may take together.
        """

        def declare(record: C) -> C:
            spec = declarations.table_spec(record, capacity, heap_bytes, self.tables)
            self.tables[spec.name] = spec
            return record

        return declare if cls is None else declare(cls)

    @overload
    def transaction(self, function: F, /) -> F: ...
    @overload
    def transaction(self, *, compiled: bool = ...) -> Callable[[F], F]: ...
    def transaction(self, function: Any = None, *, compiled: bool | None = None) -> Any:
        """Declare a handler that changes data. Any exception in it undoes all that it wrote."""
        return self._operation("transaction", function, compiled)

    @overload
    def query(self, function: F, /) -> F: ...
    @overload
    def query(self, *, compiled: bool = ...) -> Callable[[F], F]: ...
    def query(self, function: Any = None, *, compiled: bool | None = None) -> Any:
        """Declare a handler that reads. It runs on a mirror and can't change anything."""
        return self._operation("query", function, compiled)

    def setup(self, function: F, /) -> F:
        """Declare what runs once, as the first transaction of an empty server."""
        where = _place(function)
        if self.setup_function is not None:
            raise DeclarationError(f"{where}: the app has a setup already")
        if self._parameters(function, where):
            raise DeclarationError(f"{where}: a setup takes the db alone")
        self.setup_function = function
        return function

    def invariant(self, function: F, /) -> F:
        """Declare what must be true between transactions: `(db) -> bool`, read-only."""
        where = _place(function)
        if self._parameters(function, where):
            raise DeclarationError(f"{where}: an invariant takes the db alone")
        self.invariants.append(function)
        return function

    def migration(self, *, from_version: int) -> Callable[[F], F]:
        """Declare how stored data of an earlier version becomes data of this one.

        `(old, new) -> None`: `old` is read-only, with the tables as they were. In `new` all is
        filled that could be without help; tables that differ otherwise are empty, for the function
        to fill. It runs at a start that finds data of `from_version`; see docs/evolution.md.
        """

        def declare(function: F) -> F:
            where = _place(function)
            given = list(inspect.signature(function).parameters) if callable(function) else []
            hints = [type_hints(function, where).get(name) for name in given]
            dbs = [h is Any or (isinstance(h, type) and issubclass(h, Db)) for h in hints]
            if dbs != [True, True]:
                raise DeclarationError(f"{where}: a migration takes (old: Db, new: Db)")
            if not isinstance(from_version, int) or not 1 <= from_version < self.version:
                raise DeclarationError(
                    f"{where}: from_version must be below the app's, which is {self.version}"
                )
            if from_version in self.migrations:
                raise DeclarationError(
                    f"{where}: there is a migration from version {from_version} already"
                )
            self.migrations[from_version] = function
            return function

        return declare

    def operation(self, name: str) -> Operation:
        """The operation of that name. Errors: KeyError with the nearest name."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        names = [operation.name for operation in self.operations]
        raise KeyError(f"{self.name} has no operation {name!r}{did_you_mean(name, names)}")

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that change with the schema or with any operation's description."""
        told = [self.name, [t.describe() for t in self.tables.values()], self.describe()]
        return hashlib.sha256(repr(told).encode()).digest()[:16]

    def describe(self) -> list[dict[str, Any]]:
        return [operation.describe() for operation in self.operations]

    def check_names(self) -> None:
        """Look for names in handlers that no table has, before the first of them runs.

        Errors: DeclarationError with a line for each, which says file and line of the source.
        """
        setup = [] if self.setup_function is None else [self.setup_function]
        handlers = [*(o.function for o in self.operations), *setup, *self.invariants]
        if len(handlers) == self._names_checked:
            return
        wrong = wrong_names(handlers, self.tables, Db)
        if wrong:
            raise DeclarationError("\n".join(map(str, wrong)))
        self._names_checked = len(handlers)

    def hazards(self) -> list[Hazard]:
        """What transactions do that a replay of the log may do otherwise, by place.

        Queries are free to do it, and a setup is never replayed.
        """
        transactions = {o.name: o.function for o in self.operations if o.kind == "transaction"}
        return hazards(transactions, self.tables)

    def open(
        self,
        *,
        lane: str = "interpreted",
        now: int | None = None,
        seed: int = 0,
        check: bool = False,
        setup: bool = False,
    ) -> AbstractContextManager[Bench]:
        """Open the real engine in this process, without sockets, for tests and scripts.

        `lane`: "compiled" runs compiled what a server would, or every transaction where the
        application does not choose; `now`: where `db.now` starts, ns since 1970 (left out: the
        clock); `check`: run every invariant and verify all structures after each transaction;
        `setup`: run the app's setup.
        """
        from diptych.testing import Bench  # the engine needs Numba; a declaration does not

        return Bench(self, lane=lane, now=now, seed=seed, check=check, setup=setup)

    def _operation(self, kind: Any, function: Any, compiled: bool | None) -> Any:
        def declare(handler: F) -> F:
            self.operations.append(self._describe_operation(kind, handler, compiled))
            return handler

        return declare if function is None else declare(function)

    def _describe_operation(
        self, kind: Literal["transaction", "query"], handler: Any, compiled: bool | None
    ) -> Operation:
        where = _place(handler)
        given = self._parameters(handler, where)
        name = handler.__name__
        if name in diptych_client.RESERVED_NAMES or name[0] in "_<":
            raise DeclarationError(
                f"{where}: an operation can't be called {name!r}: clients have that name already, "
                "or it begins with an underscore"
            )
        if any(name == operation.name for operation in self.operations):
            raise DeclarationError(f"{where}: there is an operation {name!r} already")
        hints = type_hints(handler, where)
        parameters = []
        for parameter in given:
            here = f"{where}, parameter {parameter.name}"
            if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                raise DeclarationError(f"{here}: must be a plain parameter")
            if parameter.name not in hints:
                raise DeclarationError(f"{here}: needs an annotation")
            value = value_type(hints[parameter.name], here)
            default = MISSING if parameter.default is parameter.empty else parameter.default
            if default is not MISSING:
                plain_default(default, here)
            parameters.append(Parameter(parameter.name, value, default))
        # Rows can be results: they are sent as records of their columns.
        records = {
            spec.record: tuple((column.name, column.value) for column in spec.columns)
            for spec in self.tables.values()
        }
        return Operation(
            name=name,
            number=len(self.operations),
            kind=kind,
            function=handler,
            compiled=self.compiled if compiled is None else compiled,
            parameters=tuple(parameters),
            result=value_type(hints.get("return", Any), f"{where}, result", records),
            codes=rejection_codes(handler),
            doc=inspect.getdoc(handler) or "",
        )

    def _parameters(self, function: Any, where: str) -> list[inspect.Parameter]:
        """A handler's parameters after the db, which is checked."""
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{where}: a handler is a plain function, without async")
        given = list(inspect.signature(function).parameters.values())
        annotation = type_hints(function, where).get(given[0].name, Any) if given else None
        if isinstance(annotation, type) and issubclass(annotation, Db):
            self._check_db(annotation, where)
        elif annotation is not Any:
            raise DeclarationError(f"{where}: a handler's first parameter is the db: Db")
        return given[1:]

    def _check_db(self, annotation: type[Db], where: str) -> None:
        """Names in a typed `Db` are compared with the tables, so that they can't drift apart."""
        for name, hint in type_hints(annotation, where).items():
            if name in Db.__annotations__:
                continue
            if name not in self.tables:
                raise DeclarationError(
                    f"{where}: {annotation.__name__} names a table {name!r} that the app "
                    f"does not have{did_you_mean(name, self.tables)}"
                )
            record = self.tables[name].record
            if get_origin(hint) is Table and get_args(hint)[0] not in (record, Any):
                raise DeclarationError(
                    f"{where}: {annotation.__name__}.{name} must be Table[{record.__name__}]"
                )


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    at = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
    return f"{at}{getattr(function, '__name__', function)}"
