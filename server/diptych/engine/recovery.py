"""What a start makes of what it finds: one table, and the function that looks a situation up in it.

A situation is six small facts, found out elsewhere; a decision is what to do, whether the history
changes, and what to tell the operator. Every situation has exactly one row. Two rules are behind
them all: nothing that was answered is dropped without the operator's word, and if something may
have been dropped all the same (because that is all that the log's mode promises), the history
changes, so that clients learn of it. Touches no file and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Images(Enum):
    NONE = "nothing in memory can be used"
    WHOLE = "a writer died, and an image that it made is whole"


class Mode(Enum):
    """Durability of the log that was opened last in the base's history, not of the one to come."""

    NONE = "no log was opened"
    OS = "an answer left when the system had its record"
    FSYNC = "an answer left when the disk had its record"


class Checkpoints(Enum):
    NONE = "there is none"
    NEWEST_GOOD = "the newest is whole"
    OLDER_GOOD = "the newest is damaged, and one that ends with an earlier transaction is whole"
    ALL_DAMAGED = "there are some, none of them whole"


class Tail(Enum):
    """The log of the base's history, behind the base: the image, or else the newest whole
    checkpoint; without either, transaction 0.
    """

    NO_LOG = "no file of such a log is there"
    EMPTY = "it has no record of a later transaction"
    RECORDS = "it has, and all of them are whole"
    TORN = "its end was not written to the end, and is not needed"
    DAMAGED = "a record that was once durable is not whole"
    GAP = "it begins too late, misses a part, or ends before the newest checkpoint does, if damaged"


class Code(Enum):
    SAME = "the facts of the log are those of this process"
    CHANGED = "they are not"


class Ended(Enum):
    CLEAN = "the server before stopped, and its last checkpoint is that of its stop; or none ran"
    SAME_BOOT = "it did not, and the host is still up"
    OTHER_BOOT = "it did not, and the host was started anew"


class Action(Enum):
    CREATE = "begin with nothing, and run the setup"
    LOAD = "load the checkpoint"
    LOAD_AND_REPLAY = "load the checkpoint, and run the log behind it"
    CUT_AND_REPLAY = "cut the torn end off, then the same"
    RESTORE = "go on from the image"
    RESTORE_AND_REPLAY = "go on from the image, cut a torn end off, and run the log behind it"
    REFUSE = "change nothing, and say why"


@dataclass(frozen=True)
class Situation:
    images: Images
    mode: Mode
    checkpoints: Checkpoints
    tail: Tail
    code: Code
    ended: Ended


@dataclass(frozen=True)
class Details:
    """What the texts are told with; nothing is decided by it. `app` and `data` as a command line
    has them.

    `base`: the transaction that image or checkpoint ends with; `until`: the last one that can be
    had. `where`: the torn or bad place of the log; `newest`: name of the newest checkpoint;
    `changed`: what `facts.differences` says.
    """

    app: str = "APP"
    data: str = "DIR"
    base: int = 0
    until: int = 0
    where: str = "the log"
    newest: str = "the newest checkpoint"
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """`why` is for the log; `advice`, of a refusal, for the operator."""

    action: Action
    new_history: bool
    why: str
    advice: str = ""

    @property
    def message(self) -> str:
        return f"{self.why}\n{self.advice}" if self.advice else self.why


class History(Enum):
    KEPT = "nothing that was answered is missing"
    NEW = "something that was answered may be missing"
    PROMISED = "one or the other, by what the log's mode promises: see LOST"


LOST: Mapping[Mode, frozenset[Ended]] = {
    Mode.NONE: frozenset({Ended.SAME_BOOT, Ended.OTHER_BOOT}),
    Mode.OS: frozenset({Ended.OTHER_BOOT}),
    Mode.FSYNC: frozenset(),
}
"""After which ends a log of that mode, or none, may lack something that was answered."""

LOGGED = frozenset({Mode.OS, Mode.FSYNC})
UNCLEAN = frozenset({Ended.SAME_BOOT, Ended.OTHER_BOOT})
BASE = frozenset({Checkpoints.NEWEST_GOOD, Checkpoints.OLDER_GOOD})
NEWEST = frozenset({Checkpoints.NEWEST_GOOD})
OLDER = frozenset({Checkpoints.OLDER_GOOD})
NOTHING = frozenset({Tail.NO_LOG, Tail.EMPTY})
WORK = frozenset({Tail.RECORDS, Tail.TORN})
COLD = frozenset({Images.NONE})
WARM = frozenset({Images.WHOLE})


@dataclass(frozen=True)
class Row:
    """For these situations, that decision. A set left out is all there are."""

    action: Action
    why: str
    advice: str = ""
    history: History = History.KEPT
    images: frozenset[Images] = field(default=frozenset(Images), kw_only=True)
    modes: frozenset[Mode] = field(default=frozenset(Mode), kw_only=True)
    checkpoints: frozenset[Checkpoints] = field(default=frozenset(Checkpoints), kw_only=True)
    tails: frozenset[Tail] = field(default=frozenset(Tail), kw_only=True)
    codes: frozenset[Code] = field(default=frozenset(Code), kw_only=True)
    endings: frozenset[Ended] = field(default=frozenset(Ended), kw_only=True)

    def covers(self, situation: Situation) -> bool:
        return (
            situation.images in self.images
            and situation.mode in self.modes
            and situation.checkpoints in self.checkpoints
            and situation.tail in self.tails
            and situation.code in self.codes
            and situation.ended in self.endings
        )


_RECOVER = (
    "`diptych recover {app} {data} --until {until} --to NEW` makes a new directory, with a "
    "history of its own, of all up to transaction {until}"
)
_GIVE_UP = (
    "`diptych recover {app} {data} --until {base} --to NEW` makes a new directory, with a history "
    "of its own, of all up to transaction {base}, and gives up what came after it"
)
_CHANGED = (
    "start once what wrote the log, stop it cleanly, and start this then. Or give the tail up: "
    + _GIVE_UP
)
_CHECK = "`diptych check {app} --data {data}` reads every checkpoint and says what is wrong"

TABLE = (
    # A writer died and left an image: nothing of the directory is needed but the log.
    Row(
        Action.RESTORE,
        "going on from the image of transaction {base}; without a log, what came after it is lost",
        history=History.NEW,
        images=WARM,
        modes=frozenset({Mode.NONE}),
    ),
    Row(
        Action.RESTORE,
        "going on from the image of transaction {base}, the last one in the log",
        images=WARM,
        modes=LOGGED,
        tails=frozenset({Tail.EMPTY}),
    ),
    Row(
        Action.RESTORE_AND_REPLAY,
        "going on from the image of transaction {base}; the log has what came after it",
        images=WARM,
        modes=LOGGED,
        tails=WORK,
        codes=frozenset({Code.SAME}),
    ),
    Row(
        Action.REFUSE,
        "the log behind transaction {base} can't be run again, since this changed: {changed}",
        _CHANGED,
        images=WARM,
        modes=LOGGED,
        tails=WORK,
        codes=frozenset({Code.CHANGED}),
    ),
    Row(
        Action.REFUSE,
        "the log is damaged, in what was durable: {where}",
        _RECOVER,
        images=WARM,
        modes=LOGGED,
        tails=frozenset({Tail.DAMAGED}),
    ),
    Row(
        Action.REFUSE,
        "the log behind transaction {base} is not there: files of it are missing from {data}",
        "bring the missing files back, and start again. Or give up what they have: " + _GIVE_UP,
        images=WARM,
        modes=LOGGED,
        tails=frozenset({Tail.NO_LOG, Tail.GAP}),
    ),
    # Nothing is in memory, and there is no checkpoint that can be used.
    Row(
        Action.CREATE,
        "there is no data yet",
        images=COLD,
        modes=frozenset({Mode.NONE}),
        checkpoints=frozenset({Checkpoints.NONE}),
        tails=frozenset({Tail.NO_LOG}),
    ),
    Row(
        Action.REFUSE,
        "a server had data in {data}, and neither a checkpoint nor its log is there any more",
        "bring them back from a backup, or begin anew in an empty directory",
        images=COLD,
        modes=LOGGED,
        checkpoints=frozenset({Checkpoints.NONE}),
        tails=frozenset({Tail.NO_LOG}),
    ),
    Row(
        Action.REFUSE,
        "{data} has a log, and no checkpoint that it could be run upon",
        "bring the newest checkpoint back from a backup. Or, to begin anew, move the files of the "
        "log away",
        images=COLD,
        checkpoints=frozenset({Checkpoints.NONE}),
        tails=frozenset(Tail) - {Tail.NO_LOG},
    ),
    Row(
        Action.REFUSE,
        "every checkpoint in {data} is damaged",
        _CHECK + ". Bring one back from a backup, with the log from there on",
        images=COLD,
        checkpoints=frozenset({Checkpoints.ALL_DAMAGED}),
    ),
    # There is a checkpoint, and a log that is no whole continuation of it.
    Row(
        Action.REFUSE,
        "the log is damaged, in what was durable: {where}",
        _RECOVER + ". " + _CHECK,
        images=COLD,
        checkpoints=BASE,
        tails=frozenset({Tail.DAMAGED}),
    ),
    Row(
        Action.REFUSE,
        "the log does not go on from the checkpoint of transaction {base}: {where}",
        "bring the missing files back, from the log's archive or a backup. Or do without: "
        + _RECOVER,
        images=COLD,
        checkpoints=BASE,
        tails=frozenset({Tail.GAP}),
    ),
    Row(
        Action.REFUSE,
        "{newest} is damaged, and there is no log from the checkpoint before it on",
        _CHECK + ". To go back to transaction {base}, and lose what came after it, move {newest} "
        "out of {data}; or leave {data} as it is: " + _GIVE_UP,
        images=COLD,
        checkpoints=OLDER,
        tails=NOTHING,
    ),
    Row(
        Action.REFUSE,
        "the files of the log are gone from {data}, and the server before was not stopped",
        "bring them back. Or give up what they have: " + _GIVE_UP,
        images=COLD,
        modes=LOGGED,
        checkpoints=NEWEST,
        tails=frozenset({Tail.NO_LOG}),
        endings=UNCLEAN,
    ),
    Row(
        Action.REFUSE,
        "the log behind transaction {base} can't be run again, since this changed: {changed}",
        _CHANGED,
        images=COLD,
        checkpoints=BASE,
        tails=WORK,
        codes=frozenset({Code.CHANGED}),
    ),
    # There is a checkpoint, and all that came after it, or all that the log's mode promises.
    Row(
        Action.LOAD,
        "the checkpoint of transaction {base} has all there is",
        images=COLD,
        modes=LOGGED,
        checkpoints=NEWEST,
        tails=frozenset({Tail.NO_LOG}),
        endings=frozenset({Ended.CLEAN}),
    ),
    Row(
        Action.LOAD,
        "the checkpoint of transaction {base} has all there is",
        history=History.PROMISED,
        images=COLD,
        modes=frozenset({Mode.NONE}),
        checkpoints=NEWEST,
        tails=frozenset({Tail.NO_LOG}),
    ),
    Row(
        Action.LOAD,
        "the checkpoint of transaction {base} has all there is",
        history=History.PROMISED,
        images=COLD,
        checkpoints=NEWEST,
        tails=frozenset({Tail.EMPTY}),
    ),
    Row(
        Action.LOAD_AND_REPLAY,
        "the log has what came after the checkpoint of transaction {base}",
        history=History.PROMISED,
        images=COLD,
        checkpoints=NEWEST,
        tails=frozenset({Tail.RECORDS}),
        codes=frozenset({Code.SAME}),
    ),
    Row(
        Action.LOAD_AND_REPLAY,
        "{newest} is damaged; the log has what came after the one before it, transaction {base}",
        history=History.PROMISED,
        images=COLD,
        checkpoints=OLDER,
        tails=frozenset({Tail.RECORDS}),
        codes=frozenset({Code.SAME}),
    ),
    Row(
        Action.CUT_AND_REPLAY,
        "the log has what came after the checkpoint of transaction {base}; its end was being "
        "written when the server ended, and is cut off: {where}",
        history=History.PROMISED,
        images=COLD,
        checkpoints=NEWEST,
        tails=frozenset({Tail.TORN}),
        codes=frozenset({Code.SAME}),
    ),
    Row(
        Action.CUT_AND_REPLAY,
        "{newest} is damaged; the log has what came after the one before it, transaction {base}; "
        "its end was being written when the server ended, and is cut off: {where}",
        history=History.PROMISED,
        images=COLD,
        checkpoints=OLDER,
        tails=frozenset({Tail.TORN}),
        codes=frozenset({Code.SAME}),
    ),
)


def decide(situation: Situation, details: Details | None = None) -> Decision:
    """The one row for a situation, told with `details`."""
    (row,) = (row for row in TABLE if row.covers(situation))
    new = row.history is History.NEW or (
        row.history is History.PROMISED and situation.ended in LOST[situation.mode]
    )
    words = _words(details or Details())
    return Decision(row.action, new, row.why.format_map(words), row.advice.format_map(words))


def _words(details: Details) -> Mapping[str, Any]:
    return vars(details) | {"changed": ", ".join(details.changed) or "the facts of the log"}
