"""Is what the log says what the checkpoints have? One stretch at a time: from a checkpoint to the
next, and from the newest to the log's end.

`plan` lists the stretches of a directory; `run_stretch` runs one in this process and compares. Who
wants module globals, caches and the order of sets to show up calls it in a fresh process with
another PYTHONHASHSEED. Nothing is written, and a server may be at work in the directory: a
checkpoint that it replaces meanwhile is said (CheckpointReplaced), and is for the caller to plan
again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diptych.app import App
from diptych.durable import Checkpoint, Manifest, Progress, read_manifest
from diptych.durable.progress import in_mebibytes
from diptych.engine import facts
from diptych.engine.comparing import Compared, compare
from diptych.engine.copies import LogRead, copy_of, facts_for, read_log
from diptych.engine.replay import ReplayDiffers, Replayed
from diptych.engine.survey import data_in
from diptych.errors import ConfigurationError, CorruptionError

log = logging.getLogger("diptych.engine")

UNLIKE_MAX = 5
"""Records whose answers differ that are told."""


@dataclass(frozen=True)
class Stretch:
    """From one checkpoint to another, by their names; `target` "": to the end of the log."""

    base: str
    target: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"transactions {self.first} to {self.last}, upon {self.base}"


@dataclass
class Plan:
    """`skipped`: what can't be compared, and why; `damage`: what is wrong with files."""

    stretches: list[Stretch] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


@dataclass
class Verified:
    """What became of a stretch. `answers`: records that were answered otherwise this time.

    `words`: how many words of the region differ. `refusal`: why it was not run; `damage`: what was
    wrong with the files. `remarks`: what was not compared.
    """

    stretch: Stretch
    transactions: int = 0
    seconds: float = 0.0
    pages: int = 0
    words: int = 0
    answers: list[str] = field(default_factory=list)
    unlike: dict[str, int] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    refusal: str = ""
    damage: str = ""
    replaced: bool = False

    @property
    def same(self) -> bool:
        return not (self.words or self.answers or self.damage)


def plan(path: Path) -> Plan:
    """What can be verified in a directory. Errors: ConfigurationError, OSError."""
    found = Plan()
    whole: list[tuple[Checkpoint, Manifest]] = []
    for checkpoint in data_in(path):
        try:
            whole.append((checkpoint, read_manifest(checkpoint.path)))
        except FileNotFoundError:
            continue  # replaced by a newer one
        except CorruptionError as wrong:
            found.damage.append(str(wrong))
    for i, (checkpoint, manifest) in enumerate(whole):
        newer = whole[i + 1 :]
        if not newer:
            _to_the_end(found, path, checkpoint, manifest)
            continue
        target, other = newer[0]
        pair = f"{checkpoint.path.name} and {target.path.name}"
        if other.history != manifest.history:
            found.skipped.append(f"{pair} are of two histories")
        elif other.sequence > manifest.sequence:
            read = read_log(path, manifest, until=other.sequence, whole=False)
            if read.runs_to < other.sequence:
                found.skipped.append(f"{pair}: the log has only part of what is between them")
                continue
            found.stretches.append(
                Stretch(
                    checkpoint.path.name, target.path.name, manifest.sequence + 1, other.sequence
                )
            )
    return found


def _to_the_end(found: Plan, path: Path, checkpoint: Checkpoint, manifest: Manifest) -> None:
    read = read_log(path, manifest)
    bad = read.ending is not None and read.ending.state.name in ("DAMAGED", "MISSING")
    if bad and read.has_log and read.ending is not None:
        found.damage.append(f"the log is {read.ending.state.value}: {read.ending.where}")
    if read.runs_to > manifest.sequence:
        first = manifest.sequence + 1
        found.stretches.append(Stretch(checkpoint.path.name, "", first, read.runs_to))


def run_stretch(app: App, path: Path, stretch: Stretch) -> Verified:
    """Run a stretch on a copy in this process, and compare it with what there is.

    Errors: CheckpointReplaced; ConfigurationError; OSError; AllocationFailed.
    """
    found = Verified(stretch)
    names = {checkpoint.path.name: checkpoint for checkpoint in data_in(path)}
    base, target = names.get(stretch.base), names.get(stretch.target)
    if base is None or (stretch.target and target is None):
        found.replaced = True
        return found
    try:
        manifest = read_manifest(base.path)
        read = read_log(path, manifest, until=stretch.last, whole=False)
        if read.runs_to < stretch.last:  # a running server has let go of that part of the log
            found.replaced = True
            return found
        exact = _is_exact(app, manifest, read, found)
        if not found.refusal:
            _run(app, path, found, base, target, read, exact=exact)
    except FileNotFoundError:
        found.replaced = True
    except CorruptionError as wrong:
        found.damage = str(wrong)
        found.replaced = not base.path.exists() or not (target is None or target.path.exists())
    except ConfigurationError as refused:
        found.refusal = str(refused)
    return found


def _is_exact(app: App, manifest: Manifest, read: LogRead, found: Verified) -> bool:
    """Whether floats must be equal to the last bit; says what speaks against running it at all."""
    now = facts_for(app, manifest)
    changed, exact = dict.fromkeys(read.changed(now)), True
    for text in read.facts:
        stored = facts.from_text(text)
        exact = exact and facts.same_floats(stored, now)
        machine = stored | {name: now.get(name) for name in facts.FLOATS}
        told = facts.differences(machine, now)
        if told:
            found.refusal = f"it can't be run again, since this changed: {', '.join(changed)}"
    if not exact and not found.refusal:
        found.remarks.append(
            f"floats may differ, since this changed: {', '.join(changed)}; answers are not compared"
        )
    return exact


def _run(
    app: App,
    path: Path,
    found: Verified,
    base: Checkpoint,
    target: Checkpoint | None,
    read: LogRead,
    *,
    exact: bool,
) -> None:
    count = 0

    def unlike(differs: ReplayDiffers) -> None:
        nonlocal count
        count += 1
        if exact and count <= UNLIKE_MAX:
            found.answers.append(str(differs))

    with copy_of(app, base) as copy:
        done: Replayed = copy.run(path, read, until=found.stretch.last, on_difference=unlike)
        found.transactions, found.seconds = done.transactions, done.seconds
        if target is None:
            return
        size_bytes = read_manifest(target.path).data_bytes
        what = f"comparing with {target.path.name}"
        progress = Progress(log, what, size_bytes, shown=in_mebibytes, unit="MiB")
        layout = copy.engine.layout
        compared = compare(copy.region, layout, target, progress.add, exact=exact)
    _tell(found, compared)


def _tell(found: Verified, compared: Compared) -> None:
    found.pages, found.words, found.unlike = compared.pages, compared.words, compared.unlike
    found.differences = [asdict(each) for each in compared.differences]
    found.told = [str(each) for each in compared.differences]
    if compared.not_compared:
        found.remarks.append(f"not compared: {', '.join(compared.not_compared)}")


def packed(found: Verified) -> dict[str, Any]:
    """For JSON."""
    return asdict(found)


def unpacked(told: dict[str, Any]) -> Verified:
    return Verified(**{**told, "stretch": Stretch(**told["stretch"])})


def is_sound(plan: Plan, results: Sequence[Verified]) -> bool:
    """Whether nothing is wrong, and, if there was anything to run, some of it was."""
    if plan.damage or not all(each.same for each in results):
        return False
    return not results or any(not each.refusal for each in results)
