import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.errors import SettingsError
from pipelines.records.tables import looks as looks_table
from pipelines.release.entries import Action, Intervention, Look, Release, State
from pipelines.release.figures import Measurement, Scraped
from pipelines.release.judge import Verdict, judge
from pipelines.release.measure import answers_of, figures_of, users_of
from pipelines.release.plan import Plan
from pipelines.release.rejudge import Rejudged, Unreadable, changes, rejudge
from pipelines.settings import OnDeadline, read
from tests.arms import Arm, rows

BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
PROMOTED_AT = BEGIN + timedelta(seconds=1_000)
PLAN = replace(
    Plan.of(read(_env_file=None)),
    window_s=600.0,
    extension_s=300.0,
    guard_s=300.0,
    # Effects that a few hundred answers show.
    see_error_share=0.3,
    see_slow_share=0.4,
    see_below_more=0.4,
    # Only the mean is left to break.
    max_p95_ratio=100.0,
    max_p99_ratio=100.0,
)
LOOKS_S = range(100, 1_000, 100)


def release(plan: Plan = PLAN) -> Release:
    return Release(
        release_id=5,
        version=2,
        previous=1,
        state=State.PROMOTED,
        plan=plan,
        requested_by="a test",
        run_url=None,
        opened_at=BEGIN,
        watch_from=BEGIN,
        decided_at=None,
        verdict=None,
        reason=None,
        served_from=PROMOTED_AT,
        reverted_because=None,
        ended_at=None,
    )


def measurements(canary: Arm, *, trouble: str = "", at_s=LOOKS_S) -> list[Measurement]:
    """What looks at a canary beside a sound stable version measure."""
    answers = answers_of(rows(since=BEGIN, seconds=max(at_s), per_s=5, canary=canary, stable=Arm(1)))
    made = []
    for elapsed_s in at_s:
        until = answers.where(answers.at_s < BEGIN.timestamp() + elapsed_s)
        met, others = until.where(until.canary), until.where(~until.canary)
        figures = figures_of(met, version=2)
        scraped = None if trouble else Scraped(len(met), figures.time.n, figures.time.mean, up=True)
        users = users_of(until)
        made.append(Measurement(elapsed_s, figures, figures_of(others, version=1), users, scraped, trouble))
    return made


def looked(plan: Plan, measured: list[Measurement], *, begin: datetime = BEGIN, guard=False) -> list[Look]:
    """The looks that the ledger keeps: all up to the first that is final."""
    looks = []
    for each in measured:
        judgement = judge(plan, each)
        looks.append(
            Look(
                at=begin + timedelta(seconds=each.elapsed_s),
                guard=guard,
                measurement=json.loads(json.dumps(each.as_row())),
                verdict=judgement.verdict,
                reason=judgement.reason,
                readings=json.loads(json.dumps([reading.as_row() for reading in judgement.readings])),
                progress=judgement.progress,
            )
        )
        if judgement.final:
            break
    return looks


def again(looks: list[Look], *interventions: Intervention, plan: Plan = PLAN, **changed) -> Rejudged:
    judged = rejudge(release(plan), looks, interventions, changed)
    assert isinstance(judged, Rejudged)
    return judged


def person(what: Action, at_s: float, seconds: float = 0.0) -> Intervention:
    return Intervention(BEGIN + timedelta(seconds=at_s), "ada", what, "because", seconds)


SOUND = measurements(Arm(2, mean_ms=350))
SLOW = measurements(Arm(2, mean_ms=900))


def test_passed_release_flips_when_the_limit_is_below_its_mean():
    looks = looked(PLAN, SOUND)
    judged = again(looks, max_mean_ms=300)
    assert (judged.then.verdict, judged.then.elapsed_s, judged.then.rule) == ("pass", 600, "")
    assert (judged.now.verdict, judged.now.rule) == ("fail", "mean")
    assert judged.now.elapsed_s <= judged.then.elapsed_s
    assert "the limit is 300 ms" in judged.now.reason
    assert judged.flipped


def test_aborted_release_is_not_pulled_through_by_answers_nobody_waited_for():
    looks = looked(PLAN, SLOW)
    assert (looks[-1].verdict, len(looks)) == ("fail", 1)
    judged = again(looks, max_mean_ms=2_000)
    assert (judged.then.verdict, judged.then.rule) == ("fail", "mean")
    assert (judged.now.verdict, judged.now.elapsed_s) == ("undecided", 100)
    assert judged.flipped


def test_shorter_window_passes_earlier_without_flipping():
    judged = again(looked(PLAN, SOUND), window_s=400.0)
    assert (judged.now.verdict, judged.now.elapsed_s, judged.then.elapsed_s) == ("pass", 400, 600)
    assert not judged.flipped


def test_longer_window_has_no_verdict_yet_where_the_looks_end():
    judged = again(looked(PLAN, SOUND), window_s=3_600.0)
    assert (judged.now.verdict, judged.now.elapsed_s) == ("undecided", 600)
    assert "3000 s to go" in judged.now.reason


def test_extension_by_a_person_counts_from_when_it_was_made():
    looks = looked(replace(PLAN, window_s=800.0), SOUND)
    assert again(looks, person(Action.EXTEND, 450, seconds=200)).now.elapsed_s == 800
    assert again(looks, person(Action.EXTEND, 650, seconds=200)).now.elapsed_s == 600


def test_guard_has_the_last_word_on_what_was_promoted():
    guarded = looked(PLAN.for_guard(), SLOW, begin=PROMOTED_AT, guard=True)
    looks = [*looked(PLAN, SOUND), *guarded]
    judged = again(looks)
    assert (judged.then.guard, judged.now.guard) == (True, True)
    assert (judged.then.verdict, judged.now.verdict) == ("fail", "fail")
    assert judged.now.at == PROMOTED_AT + timedelta(seconds=100)


def test_there_is_no_guard_for_what_would_have_been_aborted():
    guarded = looked(PLAN.for_guard(), SOUND, begin=PROMOTED_AT, guard=True)
    judged = again([*looked(PLAN, SOUND), *guarded], max_mean_ms=300)
    assert (judged.then.guard, judged.then.verdict) == (True, "pass")
    assert (judged.now.guard, judged.now.verdict) == (False, "fail")


@pytest.mark.parametrize(
    ("interventions", "on_deadline", "guarded"),
    [
        ((), OnDeadline.ASK, False),
        ((person(Action.APPROVE, 950),), OnDeadline.ASK, True),
        ((), OnDeadline.PROMOTE, True),
    ],
)
def test_unmeasured_release_is_guarded_when_a_person_or_the_plan_let_it_out(
    interventions, on_deadline, guarded
):
    plan = replace(PLAN, on_deadline=on_deadline)
    blind = looked(plan, measurements(Arm(2), trouble="Prometheus is away"))
    assert blind[-1].verdict == Verdict.INSTRUMENT_BROKEN
    looks = [*blind, *looked(plan.for_guard(), SOUND, begin=PROMOTED_AT, guard=True)]
    judged = again(looks, *interventions, plan=plan)
    assert (judged.now.guard, judged.now.verdict) == (guarded, "pass" if guarded else "instrument broken")


def test_release_approved_before_its_first_look_has_only_its_guard():
    looks = looked(PLAN.for_guard(), SOUND, begin=PROMOTED_AT, guard=True)
    assert again(looks, person(Action.APPROVE, 10)).now.guard


def test_release_without_looks_is_passed_over():
    assert rejudge(release(), [], [], {}) is None


def thinned(looks: list[Look]) -> list[Look]:
    """As the ledger keeps the looks at one window after a while."""
    first, *between, last = looks
    return [first, *(replace(look, measurement={}, readings=[]) for look in between), last]


def test_thinned_release_is_judged_by_what_was_kept_and_says_so():
    looks = looked(PLAN, SOUND)
    judged = again(thinned(looks))
    assert judged.now == judged.then == again(looks).then
    assert (judged.looks, judged.thinned) == (6, 6 - 2)
    assert again(looks).thinned == 0


def test_change_that_shows_in_a_thinned_look_is_seen_in_the_next_that_was_kept():
    looks = looked(PLAN, SOUND)
    assert again(looks, window_s=400.0).now.elapsed_s == 400
    assert again(thinned(looks), window_s=400.0).now.elapsed_s == 600


OLD = {"elapsed_s": 600, "canary": {"requests": 100.0, "good": 100.0, "good_ms": 2_000.0}}


def test_looks_of_before_the_figures_were_kept_are_not_guessed():
    looks = [Look(BEGIN, False, OLD, "pass", "fine", [], None)]
    judged = rejudge(release(), looks, [], {"max_mean_ms": 300})
    assert isinstance(judged, Unreadable)
    assert "no figures that can be judged again" in judged.why


@settings(max_examples=20, deadline=None)
@given(
    canary=st.builds(
        Arm,
        version=st.sampled_from([1, 2]),
        mean_ms=st.floats(1, 1_500),
        failed=st.floats(0, 0.3),
        below=st.floats(0, 1),
        short=st.floats(0, 0.3),
    ),
    plan=st.builds(replace, st.just(PLAN), window_s=st.floats(10, 1_200), early_promotion=st.booleans()),
    trouble=st.sampled_from(["", "", "", "Prometheus is away"]),
)
def test_without_a_change_every_look_says_again_what_it_said(canary, plan, trouble):
    measured = measurements(canary, trouble=trouble, at_s=(100, 300, 600))
    looks = looked(plan, measured)
    for number, look in enumerate(looks, 1):
        judged = again(looks[:number], plan=plan)
        assert judged.now == judged.then
        assert (judged.now.verdict, judged.now.reason) == (look.verdict, look.reason)
        assert not judged.flipped


# --- on the shell ---------------------------------------------------------------------------------------


@pytest.fixture
def kept(world, monkeypatch):
    """A ledger with a release that passed, one whose looks are older than the figures, and one without."""
    monkeypatch.setattr("pipelines.release.world.records", lambda config: world.records)
    ledger = world.ledger
    passed = ledger.open(2, previous=1, plan=PLAN, requested_by="a test").release_id
    ledger.begin_watch(passed)
    for measured in SOUND[:6]:
        ledger.add_look(passed, measured, judge(PLAN, measured))
    ledger.decide(passed, State.ABORTING, verdict="by hand", reason="a test")
    ledger.end(passed, State.ABORTED)
    ledger.supersede(3, by=4, plan=PLAN, requested_by="a test")
    old = ledger.open(4, previous=1, plan=PLAN, requested_by="a test").release_id
    row = {"release_id": old, "at": BEGIN, "measurement": OLD, "verdict": "pass", "reason": "fine"}
    with world.records.begin() as connection:
        connection.execute(insert(looks_table).values(row | {"at": BEGIN.replace(tzinfo=None)}))
    return passed, old


def shell(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["rejudge", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_shell_tells_which_releases_would_have_flipped(kept):
    passed, old = kept
    told = json.loads(shell("--set", "max_mean_ms=300", "--json"))
    (judged,) = told["releases"]
    assert (judged["release_id"], judged["flipped"]) == (passed, True)
    assert (judged["then"]["verdict"], judged["now"]["verdict"]) == ("pass", "fail")
    assert [one["release_id"] for one in told["unreadable"]] == [old]


def test_shell_without_a_change_finds_the_same(kept):
    passed, _ = kept
    (judged,) = json.loads(shell(str(passed), "--json"))["releases"]
    assert judged["now"] == judged["then"]
    assert "0 of 1 releases flipped" in shell(str(passed))


def test_shell_says_which_releases_are_judged_by_a_part_of_their_looks(kept, world):
    passed, _ = kept
    assert "thinned" not in shell(str(passed))
    world.ledger.thin_looks(datetime.now(UTC) + timedelta(days=1))
    (judged,) = json.loads(shell(str(passed), "--json"))["releases"]
    assert (judged["looks"], judged["thinned"], judged["flipped"]) == (6, 4, False)
    assert "4 of its 6 looks were thinned (MARQUEE_LOOKS_KEEP_DAYS)" in shell(str(passed))


# --- what may be set ------------------------------------------------------------------------------------


def test_changes_are_read_by_the_type_of_their_setting():
    assert changes(["max_mean_ms=300", "early_promotion=true", "window_s=3600", "on_deadline=abort"]) == {
        "max_mean_ms": 300.0,
        "early_promotion": True,
        "window_s": 3_600.0,
        "on_deadline": OnDeadline.ABORT,
    }
    assert changes([]) == {}


@pytest.mark.parametrize("text", ["max_mean=300", "max_mean_ms", "MAX_MEAN_MS=300", "=300"])
def test_unknown_limit_is_answered_with_all_there_are_and_their_ranges(text):
    with pytest.raises(SettingsError) as refused:
        changes([text])
    assert text in str(refused.value)
    assert all(f"  {field.name}: " in str(refused.value) for field in fields(Plan))
    assert "above 0.0, at most 60000.0" in str(refused.value)


@pytest.mark.parametrize("text", ["max_mean_ms=fast", "max_mean_ms=-1", "max_mean_ms=", "window_s=1"])
def test_impossible_value_is_answered_with_what_is_allowed(text):
    with pytest.raises(SettingsError, match="allowed: "):
        changes([text])
