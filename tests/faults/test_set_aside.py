"""A transaction that ends every writer is set aside, and the server goes on with the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.trouble import CASH, app

from diptych.serving.local import running
from diptych_client import SetAside


def test_a_transaction_that_exits_is_set_aside(tmp_path: Path) -> None:
    with (
        running(app, data=str(tmp_path), durability="fsync", readers=1) as server,
        server.client() as client,
    ):
        with pytest.raises(SetAside):
            client.exit_writer()
        assert client.transfer(1, 2, 3) == CASH - 3
