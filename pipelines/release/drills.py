"""Fire drills: replicas with a known fault are tried by what tries every candidate, and it is kept what was
caught and how fast.

The serving version runs with a fault as the shadow. Preflight and watch look at it as they would at a
candidate: the one at its answers to the latest real requests, the other at copies of what viewers are asking.
No viewer is ever answered by it. A sound replica is tried, too: it must not be caught.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from statistics import median_low
from typing import Any

from sqlalchemy import Engine, insert, select

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.errors import NothingNew
from pipelines.fault import Fault
from pipelines.model.artifact import load
from pipelines.model.recommender import Model
from pipelines.records.lines import parse
from pipelines.records.spool import spool_files
from pipelines.records.tables import drills
from pipelines.release import preflight
from pipelines.release.figures import Measurement, Scraped, Users
from pipelines.release.findings import told, trouble
from pipelines.release.judge import Judgement, Verdict, judge
from pipelines.release.measure import answers_of, figures_of, read_answers
from pipelines.release.plan import Plan
from pipelines.release.shadow import mirrored, shadowing
from pipelines.release.world import World

log = logging.getLogger(__name__)

PREFLIGHT, WATCH = "preflight", "watch"
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault before one instrument; a row of ``drills``."""

    run: str
    fault: str
    version: int
    at: datetime
    """UTC, without zone."""
    instrument: str
    caught: bool
    verdict: str
    reason: str
    after_s: float
    """From the first answer to the verdict."""
    answers: int
    """Of the shadow, until then."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a fault was caught, by whom."""

    fault: str
    instrument: str
    caught: int
    trials: int
    median_s: float | None
    """From the first answer to the verdict, of those that were caught."""

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def drill(
    world: World, faults: Sequence[Fault], *, run: str, plan: Plan, most_s: float, announce: Announce
) -> list[Trial]:
    """Try ``faults`` one after another, the watch for up to ``most_s`` each, and tell people once.

    A ``run`` that was killed goes on with what it has not tried. A release, or a rollback, ends it.

    Raises:
        NothingNew: nothing serves yet, or a release is under way.
        FleetError, RouterError: the shadow could not be run, or NGINX not be told of it.
    """
    stable = world.ledger.stable()
    if stable is None:
        raise NothingNew("nothing serves yet: there is no version that a drill could break")
    _give_way(world, stable)
    world.registry.export(stable, world.models_dir)
    tried = {trial.fault for trial in history(world.records, run=run) if trial.instrument == WATCH}
    ended_by = None
    try:
        for fault in (fault for fault in faults if fault not in tried):
            with shadowing(world, stable, fault) as address:
                _try(world, fault, address, run=run, version=stable, plan=plan, most_s=most_s)
    except NothingNew as release:
        ended_by = release
    if trials := history(world.records, run=run):
        announce(alerts.drilled(run, *summary(trials)))
    if ended_by:
        raise ended_by
    return trials


def history(records: Engine, *, run: str = "") -> list[Trial]:
    """Return the trials of ``run``, or all there ever were, oldest first."""
    names = [field.name for field in fields(Trial)]
    query = select(*(drills.c[name] for name in names)).order_by(drills.c.drill_id)
    with records.connect() as connection:
        rows = connection.execute(query.where(drills.c.run == run) if run else query).mappings()
        return [Trial(**row) for row in rows]


def rates(trials: Iterable[Trial]) -> list[Rate]:
    """Return how often and how fast each fault was caught by each instrument, in order of appearance."""
    by_kind: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        by_kind.setdefault((trial.fault, trial.instrument), []).append(trial)
    return [
        Rate(fault, instrument, len(caught_s), len(group), median_low(caught_s) if caught_s else None)
        for (fault, instrument), group in by_kind.items()
        for caught_s in [[trial.after_s for trial in group if trial.caught]]
    ]


def summary(trials: Sequence[Trial]) -> tuple[list[str], list[str], list[str]]:
    """Return a line for each fault tried, the faults that nobody caught, and who caught a sound replica."""
    by_fault: dict[str, list[Trial]] = {}
    for trial in trials:
        by_fault.setdefault(trial.fault, []).append(trial)
    lines = [f"{fault}: {', '.join(map(_in_words, group))}" for fault, group in by_fault.items()]
    sound = by_fault.pop(Fault.NONE, [])
    missed = [
        fault
        for fault, group in by_fault.items()
        # A drill that was ended before the watch has missed nothing yet.
        if group[-1].instrument == WATCH and not any(trial.caught for trial in group)
    ]
    return lines, missed, [f"{trial.instrument}: {trial.reason}" for trial in sound if trial.caught]


def _try(
    world: World, fault: Fault, address: str, *, run: str, version: int, plan: Plan, most_s: float
) -> None:
    model = load(world.models_dir / f"v{version}")
    kind = {"run": run, "fault": fault.value, "version": version}
    _note(world, **kind, **_preflight(world, model, address, plan))
    _give_way(world, version)
    _note(world, **kind, **_watch(world, version, plan, most_s))


def _preflight(world: World, model: Model, address: str, plan: Plan) -> dict[str, Any]:
    findings = preflight.tried(address, model, plan, preflight.requests_of(world, model, plan))
    found = trouble(plan, findings)
    return {
        "instrument": PREFLIGHT,
        "caught": bool(found),
        "verdict": Verdict.FAIL.value if found else Verdict.PASS.value,
        "reason": found or told(findings),
        "after_s": findings.seconds,
        "answers": findings.answers,
    }


def _watch(world: World, version: int, plan: Plan, most_s: float) -> dict[str, Any]:
    """Look at the shadow beside the stable version until the judge has made up its mind."""
    # Everybody's requests are copied: there is no split. A drill need not last longer than a pass takes.
    plan = replace(plan.for_guard(), window_s=most_s, early_promotion=True)
    with mirrored(world):
        since = datetime.now(UTC)
        while True:
            time.sleep(_LOOK_EVERY_S)
            _give_way(world, version)
            measurement, judgement = _look(world, version, plan, since)
            if judgement.final:
                break
    return {
        "instrument": WATCH,
        "caught": judgement.verdict is Verdict.FAIL,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "after_s": float(measurement.elapsed_s),
        "answers": int(measurement.canary.answers),
    }


def _look(world: World, version: int, plan: Plan, since: datetime) -> tuple[Measurement, Judgement]:
    now = datetime.now(UTC)
    shadow = figures_of(answers_of(_copies(world)), version=version)
    stable = read_answers(world.records, since=since, until=now + timedelta(seconds=1))
    # Prometheus does not know the shadow, so that nothing it counts there can be taken for a candidate.
    scraped = Scraped(shadow.answers, shadow.time.n, shadow.time.mean, up=True)
    measurement = Measurement(
        elapsed_s=(now - since).total_seconds(),
        canary=shadow,
        stable=figures_of(stable, version=version),
        users=Users(canary=shadow.users, total=shadow.users, mixed=0),
        scraped=scraped,
    )
    return measurement, judge(plan, measurement)


def _copies(world: World) -> list[dict[str, Any]]:
    """Return the shadow's receipts of what NGINX has copied; preflight asks past it."""
    lines: list[bytes] = []
    for spool in spool_files(world.shadow_spool_dir):
        try:
            with spool.open() as file:
                lines += file.read().splitlines()
        except FileNotFoundError:
            continue  # sealed since the folder was listed; it comes under its new name next time
    return [receipt for receipt in parse(lines).receipts if receipt["canary_percent"] is not None]


def _give_way(world: World, version: int) -> None:
    """End the drill when a release is under way, or when a rollback has changed what serves."""
    what = ""
    if release := world.ledger.under_way():
        what = f"release {release.release_id} of version {release.version} is {release.state}"
    elif (serving := world.ledger.stable()) != version:
        what = f"version {serving} serves now, not version {version}"
    if what:
        raise NothingNew(f"{what}: the drill gives way; `python -m pipelines drill` runs another")


def _note(world: World, **values: Any) -> None:
    with world.records.begin() as connection:
        connection.execute(insert(drills).values(at=datetime.now(UTC).replace(tzinfo=None), **values))
    log.info("%(fault)s, %(instrument)s: %(verdict)s after %(after_s).1f s: %(reason)s", values)


def _in_words(trial: Trial) -> str:
    how = f"after {trial.after_s:.1f} s ({trial.answers} answers)"
    return (
        f"caught by {trial.instrument} {how}" if trial.caught else f"{trial.instrument} {trial.verdict} {how}"
    )
