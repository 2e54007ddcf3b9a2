"""Settings: where they come from, what is refused, and that the message helps."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from diptych import config
from diptych.config import load, split_address
from diptych.errors import ConfigurationError


def file(directory: Path, text: str) -> Path:
    path = directory / "app.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = load(environment={})
    assert settings.listen == ("127.0.0.1:7171",)
    assert (settings.readers, settings.sync.images, settings.sync.interval_ms) == (2, 3, 10.0)
    assert settings.capacities == {}


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        """
        app = "exchange:app"
        listen = ["127.0.0.1:1", "[::1]:2"]
        readers = 3
        [sync]
        interval_ms = 1
        max_duty = 0.5
        [limits]
        query_ms = 500
        [tables.order]
        capacity = 20_000_000
        [tables.trade]
        capacity = 5
        """,
    )
    environment = {
        "DIPTYCH_SYNC_INTERVAL_MS": "2",
        "DIPTYCH_READERS": "4",
        "DIPTYCH_TABLES_TRADE_CAPACITY": "6",
        "DIPTYCH_ADDRESS": "a client's business",
        "PATH": "/bin",
    }
    settings = load(path, environment=environment, flags={"readers": "5", "query_ms": None})
    assert settings.app == "exchange:app"
    assert settings.listen == ("127.0.0.1:1", "[::1]:2")
    assert (settings.readers, settings.sync.interval_ms, settings.sync.max_duty) == (5, 2.0, 0.5)
    assert settings.limits.query_ms == 500
    assert settings.capacities == {"order": 20_000_000, "trade": 6}
    assert load(environment={"DIPTYCH_LISTEN": ":1, :2"}).listen == (":1", ":2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader = 1", "reader: no such setting; did you mean 'readers'"),
        ("[sync]\nintervall_ms = 1", "sync.intervall_ms: no such setting; did you mean 'sync.i"),
        ("[snyc]\ninterval_ms = 1", "snyc.interval_ms: no such setting"),
        ("interval_ms = 1", "interval_ms: no such setting"),
        ("readers = 0", "readers: must be 1 to 64, not 0"),
        ("readers = 1.5", "readers: must be a whole number"),
        ("readers = true", "readers: must be a whole number"),
        ('readers = "many"', "readers: must be a whole number"),
        ("readers = [1]", "readers: must be a whole number"),
        ("[sync]\nmax_duty = nan", "max_duty: must be a"),
        ('[sync]\ntracker = "kernal"', "'kernal' is none of .*; did you mean 'kernel'"),
        ("[sync]\ntracker = 1", "must be text"),
        ("listen = 7171", "must be a list of addresses"),
        ("listen = []", "must be a list of addresses"),
        ("listen = [7171]", "addresses must be text"),
        ('listen = ["localhost"]', "is not host:port"),
        ('[sync]\nimages_directory = "/no/such/place"', "is not a directory"),
        ("[tables.order]\ncapacity = 0", "capacity: must be 1 to"),
        ("[table.order]\ncapacity = 5", "no such setting; did you mean .tables.NAME.?"),
        ("[tables.order]\nrows = 1", "tables.order: has the settings capacity and heap_bytes"),
        ("[tables]\norder = 1", "tables.order: has the settings capacity and heap_bytes"),
        ("[tables.order]\nheap_bytes = 5", "tables.order.heap_bytes: must be 1048576 to"),
        ("[processes]\nwriter_cpus = 1", "writer_cpus: must be numbers of processors, as"),
        ("[processes]\nwriter_cpus = [-1]", "writer_cpus: must be numbers of processors"),
        ("[processes]\nwriter_cpus = [true]", "writer_cpus: must be numbers of processors"),
        ("[processes]\nwriter_cpus = [1.0]", "writer_cpus: must be numbers of processors"),
        ('[processes]\nreader_cpus = "3-2"', "reader_cpus: must be numbers of processors"),
        ("[processes]\nreader_cpus = [9000]", "reader_cpus: must be numbers of processors"),
        ("[processes]\nreader_nice = 20", "reader_nice: must be -20 to 19, not 20"),
        ("[processes]\nwriter_nice = -21", "writer_nice: must be -20 to 19, not -21"),
        ("[processes]\nreaders_nice = 5", "did you mean 'processes.reader_nice'"),
        ("= 1", "app.toml: "),
        ('tokens = "x"', "tokens: must be a table"),
        ("[tokens]\nops = 1", "tokens.ops: must be text"),
        ('[tokens]\nops = ""', "tokens.ops: must be text, and not empty"),
        (f'[tokens]\n{"n" * 33} = "x"', "must have 1 to 32 bytes"),
        ('[tokens]\n"" = "x"', "must have 1 to 32 bytes"),
        ('[tokens]\nops = "sha256:12"', "tokens.ops: after sha256: come 64 hexadecimal digits"),
        ('[tokens]\nops = "x"\nbank = "x"', "tokens.bank: 'ops' has the same secret"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        load(file(tmp_path, text), environment={})
    assert "listen" in str(error.value) or "app.toml" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DIPTYCH_SYNC_INTERVAL", "1", "did you mean 'DIPTYCH_SYNC_INTERVAL_MS'"),
        ("DIPTYCH_READERS", "x", "DIPTYCH_READERS: must be a whole number"),
        ("DIPTYCH_TABLES_ORDER_CAPACITY", "-1", "DIPTYCH_TABLES_ORDER_CAPACITY: must be 1 to"),
    ],
)
def test_what_is_wrong_in_the_environment(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(environment={name: value})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml", environment={})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:7171", ("::1", 7171)),
        (":80", ("", 80)),
        ("name:65535", ("name", 65535)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["x", "x:", "x:y", "x:65536", "::1:80", "[::1:80", "x:-1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigurationError):
        split_address(address)


def test_every_setting_has_help_and_a_default_within_its_bounds() -> None:
    for name, option in config.OPTIONS.items():
        assert option.metadata["help"], name
        if option.default is not None and name != "app":
            assert option.check(option.default, name) == option.default


def test_processors_as_a_list_or_as_text(tmp_path: Path) -> None:
    path = file(tmp_path, '[processes]\nwriter_cpus = [3, 1, 3]\nreader_cpus = "0,4-7"')
    environment = {"DIPTYCH_PROCESSES_GATEWAY_CPUS": "2", "DIPTYCH_PROCESSES_WRITER_NICE": "-5"}
    chosen = load(path, environment=environment, flags={"checkpointer_cpus": "1, 0"}).processes
    assert (chosen.writer_cpus, chosen.reader_cpus) == ((1, 3), (0, 4, 5, 6, 7))
    assert (chosen.gateway_cpus, chosen.checkpointer_cpus) == ((2,), (0, 1))
    assert chosen.writer_nice == -5
    assert load(path, environment={}, flags={"writer_cpus": ""}).processes.writer_cpus == ()


def test_where_processes_run_unless_configured() -> None:
    usual = load(environment={}).processes
    assert usual.writer_cpus == usual.gateway_cpus == usual.reader_cpus == ()
    assert (usual.writer_nice, usual.gateway_nice) == (0, 0)
    assert (usual.reader_nice, usual.checkpointer_nice) == (10, 19)


def test_reading_settings_needs_no_numpy() -> None:
    code = "import sys, diptych.config; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tokens_are_kept_as_digests(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"secret of bank").hexdigest()
    path = file(tmp_path, f'[tokens]\nops = "secret of ops"\nbank = "sha256:{digest.upper()}"')
    settings = load(path, environment={})
    assert settings.tokens == {
        "ops": hashlib.sha256(b"secret of ops").digest(),
        "bank": hashlib.sha256(b"secret of bank").digest(),
    }
    assert "secret" not in repr(settings)
    assert "tokens" not in repr(settings)
    more = load(path, environment={}, tokens={"desk": "x"}).tokens
    assert set(more) == {"ops", "bank", "desk"}
    with pytest.raises(ConfigurationError) as error:
        load(file(tmp_path, '[tokens]\nops = "sha256:secret"'), environment={})
    assert "secret" not in str(error.value)


def test_the_data_directory_may_be_missing_but_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "made" / "later"
    assert load(environment={}, flags={"data": str(missing)}).data == missing
    assert not missing.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="is not a directory"):
        load(environment={"DIPTYCH_DATA": str(tmp_path / "file")})
