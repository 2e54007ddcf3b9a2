"""Operations that every server has beside its application's: imports, exports, the schema, clients'
sessions, and questions about what became of a transaction.

They are called as any other, by numbers from SYSTEM_FIRST on that no WELCOME names
(docs/protocol.md does), and are declared as an application declares its own, so that arguments are
checked in the same way. What they do is the business of `store.staging`, `engine.requests` and
`engine.exports`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from diptych.app import App, Operation
from diptych.engine.exports import Exports
from diptych.engine.requests import Found, Requests
from diptych.store.database import Database
from diptych.store.staging import Staging

SYSTEM_FIRST = 65_000
SESSION_OPEN = 65_050
SESSIONS_TOUCH = 65_051
OUTCOME = 65_060
OUTCOME_OF_KEY = 65_061
QUERIES_FIRST = 65_100

OF_GATEWAYS = frozenset({SESSION_OPEN, SESSIONS_TOUCH})
"""What only a gateway may call."""

Chunk = list[tuple[str, bytes, bytes, bytes]]
"""Columns of some rows: name, values, bitmap, lengths; see `store.packing.read_chunk`."""


def system_transactions(db: Database | None) -> list[Operation]:
    """Those that write. Without `db` they describe themselves and can't be run."""
    system = App("system")
    staging = Staging(db) if db is not None else None

    def opened() -> Staging:
        assert staging is not None
        return staging

    @system.transaction
    def import_begin(db: Database, table: str, replace: bool = False) -> int:
        """Begin an import of rows of `table`; the token that names it."""
        return opened().begin(table, replace)

    @system.transaction
    def import_rows(db: Database, token: int, first_row: int, rows: int, columns: Chunk) -> int:
        """Stage rows, the first of which has this number, from 0; how many are staged now."""
        chunk = {name: tuple(parts) for name, *parts in columns}
        return opened().append(token, first_row, rows, chunk)

    @system.transaction
    def import_commit(db: Database, token: int) -> int:
        """Make all staged rows visible at once; how many."""
        return opened().commit(token)

    @system.transaction
    def import_abort(db: Database, token: int = 0) -> int:
        """Drop what is staged, whoever began it if the token is 0; how many rows that was."""
        return opened().drop(token)

    @system.transaction
    def import_status(db: Database) -> dict[str, Any]:
        """The import under way, or nil, and the token of the last one that became visible."""
        now = opened().now()
        return {
            "running": now and {"table": now.table, "rows": now.rows, "age_s": now.age_s},
            "committed": opened().committed,
        }

    return _numbered(system, SYSTEM_FIRST)


def gateway_transactions(requests: Requests | None) -> list[Operation]:
    """Those that gateways call, and nobody else may."""
    system = App("system")

    def opened() -> Requests:
        assert requests is not None
        return requests

    @system.transaction
    def session_open(db: Database, identity: bytes, caller: str) -> int:
        """The number of the session of a client and the name of its token."""
        return opened().open(identity, caller)

    @system.transaction
    def sessions_touch(db: Database, sessions: list[int]) -> None:
        """Note that the clients of these sessions are connected."""
        opened().touch(sessions)

    return _numbered(system, SESSION_OPEN)


def questions(requests: Requests | None) -> list[Operation]:
    """What became of a transaction. The answer is the one that it got, as a reply of its own."""
    system = App("system")

    def opened() -> Requests:
        assert requests is not None
        return requests

    @system.transaction
    def outcome_of_request(db: Database, session: int, request: int) -> Any:
        """What a request was answered. One that has not come is refused from now on."""
        found: Found = opened().outcome(db.caller, session, request, OUTCOME)
        return found

    @system.transaction
    def outcome_of_key(db: Database, key: str) -> Any:
        """The same for a transaction with a key of the caller's own."""
        found: Found = opened().outcome_of_key(db.caller, key, OUTCOME_OF_KEY)
        return found

    return _numbered(system, OUTCOME)


def system_queries(exports: Exports | None) -> list[Operation]:
    """Those that read. Without `exports` only the schema can be asked for."""
    system = App("system")

    def spool() -> Exports:
        assert exports is not None
        return exports

    @system.query
    def schema(db: Database) -> Any:
        """The application's name and version, and its tables as plain data."""
        return json.loads(db.layout.schema)

    @system.query
    def export_begin(db: Database, tables: list[str]) -> dict[str, Any]:
        """Keep the rows that these tables have now, for `export_part` to read them."""
        return spool().begin(db, tables)

    @system.query
    def export_part(db: Database, token: str, offset: int) -> bytes:
        """Bytes of an export from `offset` on; none at its end."""
        return spool().part(token, offset)

    @system.query
    def export_end(db: Database, token: str) -> bool:
        """Drop an export; whether there was one."""
        return spool().end(token)

    return _numbered(system, QUERIES_FIRST)


def _numbered(system: App, first: int) -> list[Operation]:
    return [replace(operation, number=first + operation.number) for operation in system.operations]


DESCRIBED = [*system_transactions(None), *questions(None), *system_queries(None)]
"""All that clients may call, for who routes or calls them; what only gateways call is not here."""
