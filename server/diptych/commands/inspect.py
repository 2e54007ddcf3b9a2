"""`diptych inspect DIR`: what a data directory holds, and what its log says.

Lists checkpoints and files of the log, who has the directory locked, and how the log ends. With
--records, --from or --follow it prints the log's records instead: each transaction by number, with
session, request and arguments. Changes nothing, needs no lock, may run beside a server, and works
on damaged directories. Exit codes: 0 all is well, 1 something is damaged, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.commands.serve import import_app
from diptych.errors import ConfigurationError, CorruptionError
from diptych.serving.spawn import forbid_library_threads

if TYPE_CHECKING:
    from diptych.durable import Lock, Record
    from diptych.engine.decoding import Names
    from diptych.engine.survey import CheckpointSeen, SegmentSeen, Survey

HELP = "list what a data directory holds, and decode its log"
MIB = 1 << 20
KIB = 1 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__
    parser.add_argument("directory", metavar="DIR", help="the data directory")
    parser.add_argument(
        "--app", metavar="MODULE:APP", help="tells operations by name instead of by number"
    )
    parser.add_argument("--records", action="store_true", help="print the log's records")
    parser.add_argument(
        "--from", dest="first", type=int, metavar="S", help="only those from transaction S on"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only so many records")
    parser.add_argument(
        "--follow", action="store_true", help="go on as records are written, until Ctrl-C"
    )
    parser.add_argument("--pages", action="store_true", help="read every page of the checkpoints")
    parser.add_argument(
        "--json", action="store_true", help="print JSON: one object, or one a line for each record"
    )


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    shows_records = arguments.records or arguments.follow or arguments.first is not None
    try:
        if shows_records:
            return _records(arguments)
        from diptych.engine.survey import survey

        found = survey(Path(arguments.directory), pages=arguments.pages)
    except ConfigurationError as error:
        print(f"diptych inspect: {error}", file=sys.stderr)
        return 2
    except (CorruptionError, OSError) as error:
        print(f"diptych inspect: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(_as_json(found), default=str))
    else:
        _print(found)
    return 1 if found.damage else 0


def _records(arguments: argparse.Namespace) -> int:
    from diptych.engine.decoding import Names, described
    from diptych.engine.survey import data_in, first_logged, records

    path = Path(arguments.directory)
    data_in(path)
    app = import_app(arguments.app, Path.cwd()) if arguments.app else None
    names = Names(app)
    first = first_logged(path) if arguments.first is None else arguments.first
    found = itertools.islice(records(path, first, follow=arguments.follow), arguments.limit)
    try:
        for record in found:
            if arguments.json:
                print(json.dumps(described(record, names)), flush=arguments.follow)
            else:
                _print_record(record, names, first)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not arguments.follow:
            raise
    return 0


def _print_record(record: Record, names: Names, first: int) -> None:
    from diptych.durable import Kind
    from diptych.engine.decoding import cause_name, frames_of

    head = f"record {record.number} {record.kind.name.lower()}"
    when = _time(record.time_ns)
    if record.kind is Kind.MARK:
        print(f"{head} {when} all up to {record.durable_through} is safe")
    elif record.kind is Kind.ABORTS:
        told = ", ".join(f"{sequence} {cause_name(cause)}" for sequence, cause in record.aborts)
        print(f"{head} {when} {told}")
    else:
        outcome = "" if record.outcome is None else f", before it {record.outcome:08x}"
        print(f"{head} {record.first} to {record.last} {when}{outcome}")
        for frame in frames_of(record):
            if frame.sequence >= first:
                key = "" if frame.key is None else f" key {frame.key.decode(errors='replace')!r}"
                session = f" session {frame.session}" if frame.session else ""
                told = names.call(frame)
                print(f"  {frame.sequence}{session} request {frame.request}{key} {told}")


def _as_json(found: Survey) -> dict[str, Any]:
    told = asdict(found)
    if found.lock is not None:
        told["lock"]["ended"] = found.lock.ended.name.lower()
    if found.attempts is not None:
        counts, (sequence, times) = found.attempts
        told["attempts"] = {"counts": counts, "killed": {"sequence": sequence, "times": times}}
    for each in [*told["checkpoints"], *told["segments"]]:
        each["facts"] = json.loads(each["facts"]) if each["facts"] else None
    return told


def _print(found: Survey) -> None:
    print(f"{found.directory}: {_lock(found.lock)}")
    for checkpoint in found.checkpoints:
        print(f"  {checkpoint.name}: {_checkpoint(checkpoint)}")
    if not found.checkpoints:
        print("  no checkpoint")
    for segment in found.segments:
        print(f"  {segment.name}: {_segment(segment)}")
    if found.ending is not None:
        ending = found.ending
        told = f"up to {ending.last}, {ending.state}: {ending.where}"
        print(f"  the log behind transaction {ending.after}: {told}")
    if found.attempts is not None:
        for sequence, count in found.attempts.counts.items():
            print(f"  transaction {sequence} ended a writer: {count} times")
        sequence, times = found.attempts.killed
        if times:
            print(f"  the last {times} deaths were kills from outside, at transaction {sequence}")
    for each in found.damage:
        print(f"DAMAGED: {each}")


def _lock(lock: Lock | None) -> str:
    if lock is None:
        return "never used by a server"
    mode = f", durability {lock.mode}" if lock.mode else ""
    if lock.held:
        return f"in use by process {lock.process}, {lock.app}{mode}"
    free = "not in use" if lock.held is not None else "whether it is in use is not known"
    return f"{free}; the last one there, {lock.app}, ended {lock.ended.value}{mode}"


def _checkpoint(seen: CheckpointSeen) -> str:
    if seen.damage:
        return f"DAMAGED: {seen.damage}"
    return (
        f"{seen.app}, transaction {seen.sequence:,}, written {_time(seen.written_ns)}; "
        f"{seen.size_bytes / MIB:,.1f} MiB, {seen.pages:,} pages in pages-{seen.pages_file}; "
        f"history {seen.history:x}{_facts(seen.facts)}"
    )


def _segment(seen: SegmentSeen) -> str:
    if seen.problem:
        return f"DAMAGED: {seen.problem}"
    which = f"{seen.first:,} to {seen.last:,}" if seen.last >= seen.first else "none"
    return (
        f"transactions {which}; {seen.records:,} records, {seen.record_bytes / KIB:,.1f} of "
        f"{seen.file_bytes / KIB:,.0f} KiB; {seen.mode}; history {seen.history:x}"
        f"{_facts(seen.facts)}"
    )


def _facts(text: str) -> str:
    """What wrote it, in short."""
    try:
        facts = json.loads(text)
        return f"; version {facts['version']}, Diptych {facts['diptych']}, {facts['python']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest // 1_000_000:03d} UTC"
