"""What can be configured, its defaults, and where a value comes from.

A setting comes from a TOML file, is overridden by an environment variable
(`DIPTYCH_SYNC_INTERVAL_MS`) and that by a flag or keyword (`--interval-ms`, `interval_ms=`). The
dataclasses below are the whole list: names, units, bounds and help are read from them, by this
module, by `diptych serve --help` and by `running()`. A name that is not there is refused, with the
nearest one that is.

Tokens of clients, like capacities, are named by who configures them: `[tokens]` in a file, kept as
digests alone.

Used by serving and commands; imports no numpy. Errors: ConfigurationError, which names the source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.errors import ConfigurationError, did_you_mean
from diptych.schema import CAPACITY_MAX, HEAP_BYTES_MAX, HEAP_BYTES_MIN, HEAP_SIZE
from diptych_client.protocol import FRAME_BYTES_DEFAULT

ENVIRONMENT_PREFIX = "DIPTYCH_"
DIGEST_PREFIX = "sha256:"
CALLER_BYTES_MAX = 32
CPU_MAX = 8191
OTHER_VARIABLES = frozenset({"DIPTYCH_ADDRESS", "DIPTYCH_TOKEN"})
"""Variables that clients read; no settings of a server."""


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    made: bool = False,
) -> Any:
    """A field of a settings class, with what `--help` says and what values are allowed.

    `made`: of a directory, that it is made when it is missing.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "made": made}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Sync:
    """When and how written pages reach the images that queries read."""

    interval_ms: float = setting(10.0, "longest time between syncs", low=0, high=60_000)
    max_duty: float = setting(0.10, "share of the writer's time for syncs", low=0.001, high=1)
    max_pause_ms: float = setting(5.0, "longest stop of the writer aimed at", low=0.1, high=10_000)
    max_pin_ms: float = setting(
        1000.0, "longest time a query may hold the last free image", low=1, high=3_600_000
    )
    images: int = setting(3, "copies of the data that queries read from", low=2, high=16)
    tracker: str = setting(
        "auto", "how written pages are found", choices=("auto", "kernel", "compare")
    )
    images_directory: Path | None = setting(  # noqa: RUF009 - the default is immutable
        None, "keep images in files here, not in memory"
    )


@dataclass(frozen=True)
class Limits:
    """What clients can make a server do. Past a bound: a typed error or a closed connection."""

    connections: int = setting(1000, "clients connected at once", low=1, high=100_000)
    frame_bytes: int = setting(
        FRAME_BYTES_DEFAULT, "largest payload of a request", low=256, high=1 << 30
    )
    output_bytes: int = setting(
        64 << 20, "unread answers after which a client is dropped", low=1 << 16, high=1 << 34
    )
    transactions_in_flight: int = setting(
        1024, "unanswered transactions of a connection", low=1, high=1024
    )
    queries_in_flight: int = setting(256, "unanswered queries of a connection", low=1, high=1 << 16)
    queries_waiting: int = setting(
        20_000, "unanswered queries of all connections", low=1, high=1 << 20
    )
    query_ms: float = setting(
        10_000.0, "how long a query may wait, and then run", low=1, high=86_400_000
    )
    transaction_ms: float = setting(
        1000.0, "how long a transaction may run before it is undone; 0: for ever", low=0, high=3.6e6
    )
    transaction_wait_ms: float = setting(
        10_000.0, "how long a transaction waits for a writer that restarts", low=1, high=600_000
    )
    handshake_ms: float = setting(
        5000.0, "how long a client may take to say hello", low=1, high=600_000
    )
    export_bytes: int = setting(
        8 << 30, "disk space for exports on their way", low=1 << 20, high=1 << 44
    )
    export_idle_s: float = setting(
        600.0, "how long an export that nobody fetches is kept", low=1, high=86_400
    )
    drain_ms: float = setting(
        5000.0, "how long calls in flight may take at shutdown", low=0, high=600_000
    )


@dataclass(frozen=True)
class Log:
    """The command log and the checkpoints of a server with a data directory."""

    durability: str = setting(
        "fsync",
        "when an answer leaves: its transaction is on the disk, with the system, or nowhere",
        choices=("fsync", "os", "none"),
    )
    segment_bytes: int = setting(64 << 20, "size of a file of the log", low=1 << 16, high=1 << 32)
    archive: Path | None = setting(  # noqa: RUF009 - the default is immutable
        None, "keep files of the log here that no checkpoint needs any more", made=True
    )
    archive_command: str = setting("", "run with each such file as its last argument")
    checkpoint_interval_s: float = setting(
        300.0, "longest time between checkpoints while there are transactions", low=1, high=1e7
    )
    checkpoint_after_bytes: int = setting(
        256 << 20, "log after which a checkpoint is due", low=1 << 16, high=1 << 44
    )
    checkpoint_bytes_s: int = setting(
        100 << 20, "how fast a checkpoint is written at most", low=1 << 20, high=1 << 40
    )
    scrub_bytes_s: int = setting(
        25 << 20, "how fast checkpoints are read back and compared", low=1 << 16, high=1 << 40
    )


@dataclass(frozen=True)
class Processes:
    """Which processors the processes may use, and how they give way; see `serving.placement`."""

    writer_cpus: tuple[int, ...] = setting((), "processors for the writer; none: any")
    gateway_cpus: tuple[int, ...] = setting((), "processors for the gateway; none: any")
    reader_cpus: tuple[int, ...] = setting((), "processors for the readers, together; none: any")
    checkpointer_cpus: tuple[int, ...] = setting((), "processors for the checkpointer; none: any")
    writer_nice: int = setting(0, "how far the writer gives way to others", low=-20, high=19)
    gateway_nice: int = setting(0, "how far the gateway gives way to others", low=-20, high=19)
    reader_nice: int = setting(10, "how far readers give way to others", low=-20, high=19)
    checkpointer_nice: int = setting(
        19, "how far the checkpointer gives way to others", low=-20, high=19
    )


@dataclass(frozen=True)
class Settings:
    """Everything about one server."""

    app: str = setting("", "the application, as module:name")
    listen: tuple[str, ...] = setting(("127.0.0.1:7171",), "addresses to listen on, host:port")
    data: Path | None = setting(  # noqa: RUF009 - the default is immutable
        None, "keep the data in this directory between starts", made=True
    )
    readers: int = setting(2, "processes that run queries", low=1, high=64)
    prompt_queries: str = setting(
        "gateway",
        "who answers compiled queries that can't take long",
        choices=("gateway", "readers"),
    )
    compile_s: float = setting(
        600.0, "how long compiling handlers may take, at a start", low=1, high=86_400
    )
    log_format: str = setting("text", "format of the log on stderr", choices=("text", "json"))
    sync: Sync = field(default_factory=Sync)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    processes: Processes = field(default_factory=Processes)
    capacities: Mapping[str, int] = field(default_factory=dict)  # see `store.layout.plan`
    tokens: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # SHA-256 by name

    def __post_init__(self) -> None:
        for address in self.listen:
            split_address(address)


@dataclass(frozen=True)
class Option:
    """One setting, found in one of the classes: `path` is where it stands in a file."""

    path: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Without its section: the flag's name and the keyword. Unique, see OPTIONS."""
        return self.path.rpartition(".")[2]

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.path.upper().replace(".", "_")

    def check(self, value: Any, where: str) -> Any:
        """The value as the setting's type, within its bounds."""
        if self.kind == tuple[str, ...]:
            return _texts(value, where)
        if self.kind == tuple[int, ...]:
            return _cpus(value, where)
        if self.kind == Path | None:
            return _directory(value, where, made=self.metadata["made"])
        if self.kind is str:
            return self._check_text(value, where)
        return self._check_number(value, where)

    def _check_text(self, value: Any, where: str) -> str:
        choices = self.metadata["choices"]
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: must be text, not {value!r}")
        if choices and value not in choices:
            known = ", ".join(choices)
            raise ConfigurationError(
                f"{where}: {value!r} is none of {known}{did_you_mean(value, choices)}"
            )
        return value

    def _check_number(self, value: Any, where: str) -> int | float:
        number: int | float
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError(value)
            number = int(value) if self.kind is int else float(value)
            if number != float(value):
                raise ValueError(value)
        except (ValueError, OverflowError):
            what = "a whole number" if self.kind is int else "a number"
            raise ConfigurationError(f"{where}: must be {what}, not {value!r}") from None
        low, high = self.metadata["low"], self.metadata["high"]
        if not low <= number <= high:
            bounds = f"{_shown(low)} to {_shown(high)}"
            raise ConfigurationError(f"{where}: must be {bounds}, not {value}")
        return number


def _shown(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _options(cls: type, prefix: str = "") -> Iterator[Option]:
    kinds = typing.get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        kind = kinds[entry.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _options(kind, f"{prefix}{entry.name}.")
        elif entry.metadata:
            yield Option(prefix + entry.name, kind, entry.default, entry.metadata)


OPTIONS: Mapping[str, Option] = types.MappingProxyType(
    {option.name: option for option in _options(Settings)}
)
"""Every setting but the tables' capacities and tokens, by its name without section."""
_SECTIONS = {option.path.rpartition(".")[0] for option in OPTIONS.values()}
_BY_PATH = {option.path: option for option in OPTIONS.values()}
assert len(_BY_PATH) == len(list(_options(Settings))), "names must be unique without sections"


def load(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    capacities: Mapping[str, int] | None = None,
    tokens: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from a file, the environment and flags (or keywords), the later ones winning.

    `flags`: by name without section; None counts as not given. `environment`: left out, that
    of the process. `tokens`: beside those of the file. Errors: ConfigurationError.
    """
    values: dict[str, Any] = {}
    tables: dict[str, int] = {}
    digests: dict[str, bytes] = {}
    if file is not None:
        _add_file(file, values, tables, digests)
    _add_environment(os.environ if environment is None else environment, values, tables)
    for name, value in (flags or {}).items():
        if name not in OPTIONS:
            raise ConfigurationError(f"{name}: no such setting{did_you_mean(name, OPTIONS)}")
        if value is not None:
            values[OPTIONS[name].path] = OPTIONS[name].check(value, name)
    for table, size in (capacities or {}).items():
        check = _heap_bytes if table.endswith(HEAP_SIZE) else _capacity
        tables[table] = check(size, f"capacity of {table}")
    _add_tokens(tokens or {}, "tokens", digests)
    return _build(values, tables, digests)


def split_address(address: str) -> tuple[str, int]:
    """host and port of `host:port`, `[::1]:port` or `:port` (every address)."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"listen: {address!r} is not host:port")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ConfigurationError(f"listen: {address!r}: write IPv6 as [address]:port")
    return host.strip("[]"), int(port)


def _build(
    values: Mapping[str, Any], capacities: Mapping[str, int], tokens: Mapping[str, bytes]
) -> Settings:
    sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        sections[section][name] = value
    return Settings(
        **sections[""],
        sync=Sync(**sections["sync"]),
        limits=Limits(**sections["limits"]),
        log=Log(**sections["log"]),
        processes=Processes(**sections["processes"]),
        capacities=dict(capacities),
        tokens=dict(tokens),
    )


def _add_file(
    file: Path, values: dict[str, Any], tables: dict[str, int], tokens: dict[str, bytes]
) -> None:
    try:
        with file.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
    for name, given in content.pop("tables", {}).items():
        where = f"{file}: tables.{name}"
        if not isinstance(given, dict) or set(given) - {"capacity", "heap_bytes"}:
            raise ConfigurationError(f"{where}: has the settings capacity and heap_bytes")
        if "capacity" in given:
            tables[name] = _capacity(given["capacity"], f"{where}.capacity")
        if "heap_bytes" in given:
            tables[name + HEAP_SIZE] = _heap_bytes(given["heap_bytes"], f"{where}.heap_bytes")
    _add_tokens(content.pop("tokens", {}), f"{file}: tokens", tokens)
    for path, value in _flat(content, ""):
        if path not in _BY_PATH:
            hint = did_you_mean(path, _BY_PATH)
            if path.count(".") == 2:
                hint = "; did you mean [tables.NAME]?"
            raise ConfigurationError(f"{file}: {path}: no such setting{hint}")
        values[path] = _BY_PATH[path].check(value, f"{file}: {path}")


def _add_tokens(given: Any, where: str, tokens: dict[str, bytes]) -> None:
    """Add tokens by name: as they are, or as "sha256:" and the digest in hex."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where}: must be a table of names and secrets")
    for name, secret in given.items():
        if not 1 <= len(name.encode()) <= CALLER_BYTES_MAX:
            raise ConfigurationError(f"{where}: {name!r} must have 1 to {CALLER_BYTES_MAX} bytes")
        digest = _digest(secret, f"{where}.{name}")
        same = [other for other, known in tokens.items() if known == digest and other != name]
        if same:
            raise ConfigurationError(f"{where}.{name}: {same[0]!r} has the same secret")
        tokens[name] = digest


def _digest(secret: Any, where: str) -> bytes:
    """Messages never show the secret: they end up in logs."""
    if not isinstance(secret, str) or not secret:
        raise ConfigurationError(f"{where}: must be text, and not empty")
    if not secret.startswith(DIGEST_PREFIX):
        return hashlib.sha256(secret.encode()).digest()
    digits = secret.removeprefix(DIGEST_PREFIX)
    if len(digits) != 64 or not set(digits.lower()) <= set("0123456789abcdef"):
        raise ConfigurationError(f"{where}: after {DIGEST_PREFIX} come 64 hexadecimal digits")
    return bytes.fromhex(digits)


def _flat(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _add_environment(
    environment: Mapping[str, str], values: dict[str, Any], tables: dict[str, int]
) -> None:
    variables = {option.variable: option for option in OPTIONS.values()}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
            continue
        if name in variables:
            values[variables[name].path] = variables[name].check(value, name)
        elif name.startswith("DIPTYCH_TABLES_") and name.endswith("_CAPACITY"):
            table = name.removeprefix("DIPTYCH_TABLES_").removesuffix("_CAPACITY").lower()
            tables[table] = _capacity(value, name)
        elif name.startswith("DIPTYCH_TABLES_") and name.endswith("_HEAP_BYTES"):
            table = name.removeprefix("DIPTYCH_TABLES_").removesuffix("_HEAP_BYTES").lower()
            tables[table + HEAP_SIZE] = _heap_bytes(value, name)
        else:
            raise ConfigurationError(f"{name}: no such setting{did_you_mean(name, variables)}")


def _capacity(value: Any, where: str) -> int:
    bounds = {"low": 1, "high": CAPACITY_MAX}
    return int(Option("capacity", int, 1, bounds).check(value, where))


def _heap_bytes(value: Any, where: str) -> int:
    bounds = {"low": HEAP_BYTES_MIN, "high": HEAP_BYTES_MAX}
    return int(Option("heap_bytes", int, HEAP_BYTES_MIN, bounds).check(value, where))


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not value:
        raise ConfigurationError(f"{where}: must be a list of addresses, not {value!r}")
    if not all(isinstance(part, str) for part in value):
        raise ConfigurationError(f"{where}: addresses must be text")
    return tuple(value)


def _cpus(value: Any, where: str) -> tuple[int, ...]:
    """Numbers of processors in order: from a list, or from text like "0,4-7"."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, list | tuple):
        parts = [part if isinstance(part, str) else f"{part}" for part in value]
    else:
        parts = ["no list"]
    numbers: set[int] = set()
    for part in parts:
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last <= CPU_MAX:
            raise ConfigurationError(
                f'{where}: must be numbers of processors, as [0, 1] or "0,4-7", not {value!r}'
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def _directory(value: Any, where: str, *, made: bool) -> Path | None:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigurationError(f"{where}: must be a directory, not {value!r}")
    path = Path(value)
    if not path.is_dir() and (path.exists() or not made):
        raise ConfigurationError(f"{where}: {path} is not a directory")
    return path
