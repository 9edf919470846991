"""Look at a release once: measure, judge, write it down. Whoever watches calls this again until it is final.

What is looked at is a candidate beside the stable version or, once all viewers have it, a promoted version
beside what the version before it had done. Nothing is carried out here: a final verdict becomes the decision
in the ledger, which the steps follow.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.errors import ReleaseError
from pipelines.release.entries import Release, State
from pipelines.release.judge import Judgement, Verdict, judge
from pipelines.release.measure import Watched, measure
from pipelines.release.plan import Plan
from pipelines.release.telling import page, tell
from pipelines.release.world import World
from pipelines.settings import OnDeadline

_AT_DEADLINE = {
    OnDeadline.ASK: State.ASKING,
    OnDeadline.ABORT: State.ABORTING,
    OnDeadline.PROMOTE: State.PROMOTING,
}
_BROKEN_FOR = timedelta(minutes=5)
_LOOKS_BACK = 400
"""More looks than fit between a look a second and `_BROKEN_FOR`."""


def look(
    world: World, release_id: int, *, announce: Announce | None = None, now: datetime | None = None
) -> Judgement:
    """Measure and judge once: the candidate or, once it serves, what was promoted.

    A final verdict is written down as the decision, but for a guard that has nothing against the version:
    `steps.settle` ends that one. ``announce`` is told when the instruments have been broken for a while.

    Raises:
        ReleaseError: no viewer has met the version yet.
    """
    now = now or datetime.now(UTC)
    release = world.ledger.get(release_id)
    if release.state is State.GUARDING and release.served_from:
        return _look_after(world, release, release.served_from, now)
    if release.state is not State.WATCHING or release.watch_from is None:
        return _already_decided(release)
    watched = Watched(release.version, release.previous, since=release.watch_from)
    judgement = _judged(world, release, release.plan, watched, now)
    if judgement.final:
        return _decide(world, release, judgement)
    if announce and judgement.verdict is Verdict.INSTRUMENT_BROKEN:
        _tell_of_broken_instrument(world, release, now, announce)
    return judgement


def _look_after(world: World, release: Release, served_from: datetime, now: datetime) -> Judgement:
    """Look at a promoted version beside what the version before it had done."""
    plan = release.plan.for_guard()
    watched = Watched(release.version, release.previous, since=served_from, guard_s=plan.guard_s)
    judgement = _judged(world, release, plan, watched, now)
    if judgement.verdict is Verdict.FAIL:
        try:
            world.ledger.revert(release.release_id, reason=judgement.reason)
        except ReleaseError:
            # A person was faster, and theirs stands.
            return _already_decided(world.ledger.get(release.release_id))
    return judgement


def _judged(world: World, release: Release, plan: Plan, watched: Watched, now: datetime) -> Judgement:
    """Measure and judge under ``plan``, with what persons have added to its window; leaves a look."""
    done = world.ledger.interventions(release.release_id)
    added_s = sum(each.seconds for each in done if each.at >= watched.since)
    measurement = measure(world.records, world.prometheus, watched=watched, now=now)
    judgement = judge(replace(plan, window_s=plan.window_s + added_s), measurement)
    world.ledger.add_look(release.release_id, measurement, judgement, guard=watched.guard_s > 0)
    return judgement


def _decide(world: World, release: Release, judgement: Judgement) -> Judgement:
    """Write a final verdict down; when somebody was faster, theirs stands."""
    state = {Verdict.PASS: State.PROMOTING, Verdict.FAIL: State.ABORTING}.get(judgement.verdict)
    reason = judgement.reason
    if state is None:
        state = _AT_DEADLINE[release.plan.on_deadline]
        if state is not State.ASKING:
            reason = (
                f"{judgement.verdict} at the deadline, and the plan says {release.plan.on_deadline}: {reason}"
            )
    try:
        world.ledger.decide(release.release_id, state, verdict=judgement.verdict, reason=reason)
    except ReleaseError:
        return _already_decided(world.ledger.get(release.release_id))
    return judgement


def _already_decided(release: Release) -> Judgement:
    if release.state is State.OPEN:
        raise ReleaseError(
            f"release {release.release_id} has not met viewers yet; run the step start_canary first"
        )
    passed = release.state in (State.PROMOTING, State.GUARDING, State.PROMOTED)
    verdict = Verdict.PASS if passed else Verdict.FAIL
    reason = release.reverted_because or release.reason or f"the release is {release.state} already"
    return Judgement(verdict, reason, final=True, progress=1.0)


def _tell_of_broken_instrument(world: World, release: Release, now: datetime, announce: Announce) -> None:
    """Tell once when no look could be measured for a while: a watch is of no use without its instruments."""
    looks = world.ledger.looks(release.release_id, limit=_LOOKS_BACK)
    measured = next((each.at for each in looks if each.verdict != Verdict.INSTRUMENT_BROKEN), looks[-1].at)
    if now - measured >= _BROKEN_FOR:
        alert = alerts.instrument_broken(
            release.release_id, release.version, looks[0].reason, measured, page(world, release)
        )
        tell(world, alert, announce)
