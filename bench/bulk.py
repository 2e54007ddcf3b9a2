"""Rows per second of imports and exports over TCP, and what an import's last step costs.

    python bench/bulk.py [--rows 1000000] [--only import|export]

A table with an ordered and a unique index beside its key, random order keys, from Parquet and from
CSV. Prints one line a measurement.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np

from diptych import App, Db, Time, key, ordered, scaled, text, unique
from diptych.bulk.exporting import from_server, target_files, write_files
from diptych.bulk.importing import find_table, open_sources, run_import
from diptych.bulk.system_client import SystemClient
from diptych.store.arrow import library
from diptych.testing import running

app = App("bulk")


@app.table(capacity=20_000_000)
class Order:
    id: int = key()
    account: int
    symbol: Annotated[str, text(8)]
    price: Annotated[int, scaled(2)]
    quantity: int
    entered: Time
    by_book = ordered("symbol", "price", "id")
    by_account = unique("account", "id")


@app.transaction
def touch(db: Db) -> int:
    return len(db.order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory:
        files = make_files(Path(directory), rows)
        for kind, path in files.items():
            with running(app, readers=1) as server, SystemClient(server.address) as client:
                measure_import(client, kind, path)
                if kind == "parquet":
                    for target in ("arrow", "parquet", "csv"):
                        measure_export(client, target, Path(directory))


def make_files(directory: Path, rows: int) -> dict[str, Path]:
    """The same rows as Parquet and as CSV."""
    pa = library("pyarrow")
    chance = np.random.default_rng(1)
    ids = chance.permutation(rows)
    symbols = np.array(["AAPL", "MSFT", "GOOG", "AMZN", "NVDA"])
    prices = pa.array(chance.integers(100, 10_000, rows)).cast(pa.decimal128(19, 0))
    table = pa.table(
        {
            "id": ids,
            "account": chance.integers(0, 10_000, rows),
            "symbol": symbols[chance.integers(0, 5, rows)],
            "price": prices.cast(pa.decimal128(21, 2)),
            "quantity": chance.integers(1, 1000, rows),
            "entered": pa.array(ids + 1_700_000_000_000_000_000, pa.timestamp("ns", tz="UTC")),
        }
    )
    library("pyarrow.parquet").write_table(table, directory / "in.parquet")
    library("pyarrow.csv").write_csv(table, directory / "in.csv")
    return {"parquet": directory / "in.parquet", "csv": directory / "in.csv"}


def measure_import(client: SystemClient, kind: str, path: Path) -> None:
    spec = find_table(client, "order")
    done = run_import(client, spec, open_sources(spec, [path], None, {}, []))
    print(
        f"import {kind}: {done.rows:,} rows in {done.seconds:.2f} s, "
        f"{done.rows / done.seconds:,.0f} rows/s; last step {done.commit_s:.2f} s, "
        f"{done.commit_s / done.rows * 1e6:.2f} us a row"
    )


def measure_export(client: SystemClient, kind: str, directory: Path) -> None:
    files, kind = target_files(["order"], directory / f"out.{kind}", kind)
    began = time.monotonic()
    with from_server(client, ["order"], directory, lambda done, total: None) as snapshot:
        fetched = time.monotonic()
        write_files(snapshot, files, kind, lambda done, total: None)
        rows = snapshot.tables[0].rows
    seconds = time.monotonic() - began
    print(
        f"export {kind}: {rows:,} rows in {seconds:.2f} s, {rows / seconds:,.0f} rows/s; "
        f"of it fetching {fetched - began:.2f} s"
    )


if __name__ == "__main__":
    main()
