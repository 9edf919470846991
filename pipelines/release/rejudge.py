"""Past releases judged again by the looks that the ledger kept, under the plan of then with limits changed.

The judge remembers nothing, so a look says the same again unless a limit has changed. With none changed the
verdict must be the one of then: whoever asks for that checks the judge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from pipelines.errors import MeasurementError, SettingsError
from pipelines.release.entries import Action, Intervention, Look, Release
from pipelines.release.figures import Measurement
from pipelines.release.judge import Verdict, judge
from pipelines.release.plan import Plan, setting_of
from pipelines.settings import OnDeadline, Settings, allowed, read

_NAMES = [field.name for field in fields(Plan)]


@dataclass(frozen=True, slots=True)
class Ending:
    """The look that decided a release, or the last one if none did."""

    at: datetime
    elapsed_s: float
    """Time since its window began."""
    guard: bool
    """After the promotion."""
    verdict: str
    rule: str
    """The first rule that was broken; empty: none was."""
    reason: str

    def in_words(self) -> str:
        """Say verdict and time in a line each."""
        begun = "promotion" if self.guard else "start"
        passed = timedelta(seconds=round(self.elapsed_s))
        return f"{self.verdict}\n{self.at:%Y-%m-%d %H:%M:%S}, {passed} after the {begun}"

    def as_json(self) -> dict[str, Any]:
        """Return it for a program: the time in ISO 8601."""
        return asdict(self) | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class Rejudged:
    """A release judged then and now."""

    release_id: int
    version: int
    then: Ending
    now: Ending
    looks: int
    thinned: int
    """Looks whose figures were let go of: what they would say now is not known."""

    @property
    def flipped(self) -> bool:
        """Whether the verdict is another one now."""
        return self.then.verdict != self.now.verdict

    def as_json(self) -> dict[str, Any]:
        """Return both verdicts for a program."""
        endings = {"then": self.then.as_json(), "now": self.now.as_json()}
        return asdict(self) | endings | {"flipped": self.flipped}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A release whose looks cannot be judged again."""

    release_id: int
    version: int
    why: str


def changes(assignments: Iterable[str]) -> dict[str, Any]:
    """Read texts such as ``max_mean_ms=300`` as values for fields of a plan.

    Raises:
        SettingsError: naming what is wrong and what is allowed.
    """
    texts = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in _NAMES:
            raise SettingsError(
                f"--set {assignment}: wanted is NAME=VALUE, where NAME is one of\n{_listed()}"
            )
        texts[name] = text
    plan = Plan.of(read(**{setting_of(name): text for name, text in texts.items()}))
    return {name: getattr(plan, name) for name in texts}


def rejudge(
    release: Release,
    looks: Sequence[Look],
    interventions: Sequence[Intervention],
    changed: Mapping[str, Any],
) -> Rejudged | Unreadable | None:
    """Judge the ``looks`` at a release (oldest first) again, up to the first that is final; None without any.

    Looks that were thinned are passed over. The one that decided never is, so that without a change the
    verdict is the same; with one, the first final look may be later than it would have been.

    Persons have their say again: an extension counts from when it was made, an approval lets the guard begin.
    """
    if not looks:
        return None
    whole = [look for look in looks if look.measurement]
    try:
        now = _judged_now(replace(release.plan, **changed), release, whole, interventions)
    except MeasurementError as error:
        return Unreadable(release.release_id, release.version, str(error))
    return Rejudged(
        release.release_id,
        release.version,
        then=_judged_then(looks[-1]),
        now=now,
        looks=len(looks),
        thinned=len(looks) - len(whole),
    )


def _judged_now(
    plan: Plan, release: Release, looks: Sequence[Look], interventions: Sequence[Intervention]
) -> Ending:
    watch = [look for look in looks if not look.guard]
    guard = [look for look in looks if look.guard]
    now = _ending(plan, watch, interventions) if watch else None
    if guard and (now is None or _let_out(plan, now, interventions)):
        begun_at = release.served_from or guard[0].at
        now = _ending(plan.for_guard(), guard, [each for each in interventions if each.at >= begun_at])
    assert now is not None
    return now


def _judged_then(look: Look) -> Ending:
    rule = next((reading["rule"] for reading in look.readings if reading["breached"]), "")
    return Ending(look.at, look.measurement["elapsed_s"], look.guard, look.verdict, rule, look.reason)


def _ending(plan: Plan, looks: Sequence[Look], interventions: Sequence[Intervention]) -> Ending:
    """Judge until a look is final, else to the last."""
    for look in looks:
        added_s = sum(each.seconds for each in interventions if each.at <= look.at)
        measurement = Measurement.from_row(look.measurement)
        judgement = judge(replace(plan, window_s=plan.window_s + added_s), measurement)
        if judgement.final:
            break
    rule = next((reading.rule for reading in judgement.readings if reading.breached), "")
    elapsed_s = float(measurement.elapsed_s)
    return Ending(look.at, elapsed_s, look.guard, judgement.verdict, rule, judgement.reason)


def _let_out(plan: Plan, watched: Ending, interventions: Sequence[Intervention]) -> bool:
    """Whether all viewers would have had the version after such an end of its watch."""
    if watched.verdict in (Verdict.PASS, Verdict.FAIL):
        return watched.verdict == Verdict.PASS
    by_hand = any(each.what is Action.APPROVE for each in interventions)
    return by_hand or plan.on_deadline is OnDeadline.PROMOTE


def _listed() -> str:
    return "\n".join(f"  {name}: {_meaning(setting_of(name))}" for name in _NAMES)


def _meaning(setting: str) -> str:
    limits = f" ({allowed(setting)})" if allowed(setting) else ""
    return f"{Settings.model_fields[setting].description}{limits}"
