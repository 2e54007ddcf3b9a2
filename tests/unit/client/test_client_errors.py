"""Errors: the tree, equality, and their form on the wire."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import msgpack
import pytest

import diptych_client
from diptych_client.errors import (
    ERRORS,
    BadArguments,
    CallError,
    DiptychError,
    Disconnected,
    HistoryChanged,
    OutcomeUnknown,
    Rejected,
    ServerError,
    Unavailable,
    error_from,
    payload_of,
)

CLIENT = Path(__file__).parents[3] / "client"
SAMPLES = [
    *(cls("what happened") for cls in ERRORS.values()),
    BadArguments("too large", "price"),
    OutcomeUnknown("gone", "9/4"),
    ServerError("a bug", "e-17"),
    HistoryChanged("restored", 7, 1234),
]


@pytest.mark.parametrize("error", SAMPLES, ids=repr)
def test_an_error_survives_the_wire_and_copies(error: DiptychError) -> None:
    sent = error_from(msgpack.unpackb(msgpack.packb(payload_of(error))))
    for same in (sent, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is type(error)
        assert (same.code, str(same)) == (error.code, str(error))
        assert payload_of(same) == payload_of(error)


def test_the_families() -> None:
    assert {cls for cls in ERRORS.values() if issubclass(cls, CallError)} == {
        ERRORS[code]
        for code in (
            *("call_error", "unknown_operation", "bad_arguments", "forbidden"),
            "identity_conflict",
        )
    }
    assert {cls for cls in ERRORS.values() if issubclass(cls, Unavailable)} == {
        ERRORS[code]
        for code in (
            *("unavailable", "busy", "timed_out", "disconnected"),
            *("shutting_down", "history_changed", "not_executed", "log_failed"),
        )
    }
    for code in ("outcome_unknown", "outcome_forgotten", "session_expired"):
        assert not issubclass(ERRORS[code], Unavailable | CallError)  # it may have happened
    assert all(issubclass(cls, DiptychError) for cls in [*ERRORS.values(), Rejected])


def test_an_unknown_code_is_kept() -> None:
    error = error_from({"code": "too_hot", "message": "cool down"})
    assert type(error) is DiptychError
    assert (error.code, str(error)) == ("too_hot", "cool down")


def test_fields_of_a_wrong_type_are_left_out() -> None:
    error = error_from({"code": "history_changed", "history": "seven", "sequence": None})
    assert isinstance(error, HistoryChanged)
    assert (error.history, error.sequence) == (0, 0)
    assert str(error) == "history changed"


def test_rejected_is_equal_by_code_and_details() -> None:
    no = Rejected("insufficient_funds", needed=5, available=3)
    assert no == Rejected("insufficient_funds", available=3, needed=5)
    assert hash(no) == hash(Rejected("insufficient_funds"))
    assert no != Rejected("insufficient_funds", needed=5)
    assert no != Rejected("other", needed=5, available=3)
    assert no != Disconnected("insufficient_funds")
    assert str(no) == "insufficient_funds: needed=5, available=3"
    assert repr(no) == "Rejected('insufficient_funds', needed=5, available=3)"
    assert (str(Rejected("closed")), repr(Rejected("closed"))) == ("closed", "Rejected('closed')")
    assert pickle.loads(pickle.dumps(no)) == copy.copy(no) == no


def test_details_may_have_any_name() -> None:
    no = Rejected("x", code=1, self=2, details=3)
    assert (no.code, no.details) == ("x", {"code": 1, "self": 2, "details": 3})


def test_importing_the_package_is_cheap() -> None:
    """A server's application imports it for Rejected alone."""
    loaded = "import sys, diptych_client; print({'asyncio', 'msgpack'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert diptych_client.__version__ == project["version"]


def test_the_package_names_all_of_them() -> None:
    assert {cls.__name__ for cls in ERRORS.values()} <= set(diptych_client.__all__)
    for name in diptych_client.__all__:
        assert getattr(diptych_client, name) is not None
    with pytest.raises(AttributeError, match="Klient"):
        diptych_client.Klient  # noqa: B018 - looking it up is the test
