"""Every situation that a start can find has one decision, and the decisions keep what they must."""

from __future__ import annotations

import itertools

import pytest

from diptych.engine.recovery import (
    TABLE,
    Action,
    Checkpoints,
    Code,
    Decision,
    Details,
    Ended,
    Images,
    Mode,
    Situation,
    Tail,
    decide,
)

SITUATIONS = [
    Situation(*values) for values in itertools.product(Images, Mode, Checkpoints, Tail, Code, Ended)
]
DETAILS = Details(
    app="bank:app",
    data="/srv/bank",
    base=1200,
    until=1305,
    where="log-1201.diptych, byte 4096",
    newest="checkpoint-1250.diptych",
    changed=("handlers' code", "numpy 2.1 -> 2.2"),
)
ALL = [(situation, decide(situation, DETAILS)) for situation in SITUATIONS]
WITHOUT_REPLAY = (Action.CREATE, Action.LOAD, Action.RESTORE)
REPLAY = (Action.LOAD_AND_REPLAY, Action.CUT_AND_REPLAY, Action.RESTORE_AND_REPLAY)
LATER = (Tail.RECORDS, Tail.TORN, Tail.DAMAGED, Tail.GAP)
"""The log says that there were transactions behind the base."""


def unlogged_takeover(situation: Situation) -> bool:
    """A writer without a log died: whatever files there are, they are of an earlier life."""
    return situation.images is Images.WHOLE and situation.mode is Mode.NONE


def test_every_situation_has_exactly_one_row() -> None:
    assert len(SITUATIONS) == 864
    rows = [[row for row in TABLE if row.covers(situation)] for situation in SITUATIONS]
    assert {len(found) for found in rows} == {1}
    assert {found[0] for found in rows} == set(TABLE), "a row that nothing needs"


def test_no_record_is_dropped_in_silence() -> None:
    for situation, decision in ALL:
        if decision.action in WITHOUT_REPLAY and situation.tail in LATER:
            assert unlogged_takeover(situation), situation
            assert decision.new_history


def test_what_is_missing_or_damaged_is_not_passed_over() -> None:
    for situation, decision in ALL:
        if situation.tail in (Tail.DAMAGED, Tail.GAP) and not unlogged_takeover(situation):
            assert decision.action is Action.REFUSE, situation
        if situation.images is Images.NONE:
            if situation.checkpoints is Checkpoints.ALL_DAMAGED:
                assert decision.action is Action.REFUSE, situation
            if situation.checkpoints is Checkpoints.OLDER_GOOD:
                assert decision.action in (*REPLAY, Action.REFUSE), situation


def test_nothing_is_created_where_something_was() -> None:
    for situation, decision in ALL:
        nothing = (Images.NONE, Mode.NONE, Checkpoints.NONE, Tail.NO_LOG)
        found = (situation.images, situation.mode, situation.checkpoints, situation.tail)
        assert (decision.action is Action.CREATE) == (found == nothing), situation


def test_a_log_that_went_missing_is_noticed() -> None:
    for situation, decision in ALL:
        if situation.tail is Tail.NO_LOG and situation.mode is not Mode.NONE:
            stopped = situation.ended is Ended.CLEAN and situation.images is Images.NONE
            whole = situation.checkpoints is Checkpoints.NEWEST_GOOD
            expected = Action.LOAD if stopped and whole else Action.REFUSE
            assert decision.action is expected, situation


def test_the_base_is_the_newest_that_there_is() -> None:
    for situation, decision in ALL:
        if decision.action in (Action.RESTORE, Action.RESTORE_AND_REPLAY):
            assert situation.images is Images.WHOLE
        elif decision.action is not Action.REFUSE:
            assert situation.images is Images.NONE


def test_what_replays_has_something_to_replay_and_the_same_code() -> None:
    for situation, decision in ALL:
        if decision.action in REPLAY:
            assert situation.tail in (Tail.RECORDS, Tail.TORN)
            assert situation.code is Code.SAME
        if decision.action in (Action.LOAD_AND_REPLAY, Action.CUT_AND_REPLAY):
            torn = situation.tail is Tail.TORN
            assert (decision.action is Action.CUT_AND_REPLAY) == torn


def may_lack_answered(situation: Situation) -> bool:
    if situation.images is Images.WHOLE:
        return situation.mode is Mode.NONE
    if situation.mode is Mode.NONE:
        return situation.ended is not Ended.CLEAN
    return situation.mode is Mode.OS and situation.ended is Ended.OTHER_BOOT


def test_the_history_changes_when_something_answered_may_be_missing() -> None:
    for situation, decision in ALL:
        goes_on = decision.action not in (Action.REFUSE, Action.CREATE)
        assert decision.new_history == (goes_on and may_lack_answered(situation)), situation


def test_a_log_that_is_synced_never_costs_a_history() -> None:
    assert not any(d.new_history for s, d in ALL if s.mode is Mode.FSYNC)


def test_changed_code_stops_a_replay_and_nothing_else() -> None:
    for situation, decision in ALL:
        if situation.code is Code.SAME:
            continue
        same = decide(
            Situation(
                situation.images,
                situation.mode,
                situation.checkpoints,
                situation.tail,
                Code.SAME,
                situation.ended,
            ),
            DETAILS,
        )
        if same.action in REPLAY:
            assert decision.action is Action.REFUSE
            assert "handlers' code, numpy 2.1 -> 2.2" in decision.why
            assert "start once what wrote the log" in decision.advice
        else:
            assert decision == same


def test_a_crash_alone_is_no_reason_to_refuse() -> None:
    """Nothing damaged, nothing removed, nothing changed: a start goes on without anybody's help."""
    for situation, decision in ALL:
        if situation.code is Code.CHANGED:
            continue
        unlogged = situation.mode is Mode.NONE
        sound = situation.tail in (Tail.EMPTY, Tail.RECORDS, Tail.TORN)
        if situation.images is Images.WHOLE:
            innocent = unlogged or sound
        elif situation.checkpoints is Checkpoints.NEWEST_GOOD:
            innocent = sound or (unlogged and situation.tail is Tail.NO_LOG)
        else:
            innocent = False
        assert not innocent or decision.action is not Action.REFUSE, situation


def test_one_damaged_checkpoint_is_no_reason_to_refuse() -> None:
    for situation, decision in ALL:
        if (
            situation.images is Images.NONE
            and situation.checkpoints is Checkpoints.OLDER_GOOD
            and situation.tail in (Tail.RECORDS, Tail.TORN)
            and situation.code is Code.SAME
        ):
            assert decision.action in REPLAY
            assert "checkpoint-1250.diptych is damaged" in decision.why


def test_a_refusal_says_what_helps_and_only_a_refusal_does() -> None:
    for situation, decision in ALL:
        assert decision.why
        assert "{" not in decision.message
        assert bool(decision.advice) == (decision.action is Action.REFUSE), situation


def of(
    tail: Tail,
    *,
    images: Images = Images.NONE,
    mode: Mode = Mode.FSYNC,
    checkpoints: Checkpoints = Checkpoints.NEWEST_GOOD,
    code: Code = Code.SAME,
    ended: Ended = Ended.SAME_BOOT,
) -> Decision:
    return decide(Situation(images, mode, checkpoints, tail, code, ended), DETAILS)


@pytest.mark.parametrize(
    ("decision", "action", "words"),
    [
        (
            of(Tail.DAMAGED),
            Action.REFUSE,
            "`diptych recover bank:app /srv/bank --until 1305 --to NEW`",
        ),
        (of(Tail.DAMAGED), Action.REFUSE, "log-1201.diptych, byte 4096"),
        (of(Tail.GAP), Action.REFUSE, "archive"),
        (of(Tail.NO_LOG), Action.REFUSE, "--until 1200 --to NEW"),
        (of(Tail.RECORDS, code=Code.CHANGED), Action.REFUSE, "--until 1200 --to NEW"),
        (of(Tail.EMPTY, code=Code.CHANGED), Action.LOAD, "transaction 1200"),
        (
            of(Tail.EMPTY, checkpoints=Checkpoints.OLDER_GOOD),
            Action.REFUSE,
            "move checkpoint-1250.diptych out of /srv/bank",
        ),
        (
            of(Tail.RECORDS, checkpoints=Checkpoints.ALL_DAMAGED),
            Action.REFUSE,
            "`diptych check bank:app --data /srv/bank`",
        ),
        (of(Tail.RECORDS, checkpoints=Checkpoints.NONE), Action.REFUSE, "move the files"),
        (of(Tail.TORN), Action.CUT_AND_REPLAY, "cut off: log-1201.diptych, byte 4096"),
        (
            of(Tail.TORN, images=Images.WHOLE),
            Action.RESTORE_AND_REPLAY,
            "image of transaction 1200",
        ),
    ],
)
def test_the_words(decision: Decision, action: Action, words: str) -> None:
    assert decision.action is action
    assert words in decision.message


def test_without_details_the_words_are_still_words() -> None:
    for situation in SITUATIONS:
        assert "{" not in decide(situation).message
