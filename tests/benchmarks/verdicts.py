"""How often the judge errs, and how fast it catches what is wrong: `make verdicts`.

Simulated watches of twelve hours (`watches.py`), looked at every minute, go through the judge that watches
releases. Beside it, on the same watches: a test at 95 % at every look, as if each were the only one, and the
ancestor's rule alone. `RUNS=500` shortens it: so many watches of two equal arms instead of 10,000. Only a
whole run writes VERDICTS.md.
"""

import logging
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from pipelines.commands.shell import shown
from pipelines.progress import duration
from pipelines.release.figures import Doubles, Flags, Measurement, Number, ratio
from pipelines.release.judge import Verdict, verdicts
from pipelines.release.plan import Plan
from pipelines.release.rules import least_sizes
from tests.benchmarks import watches
from tests.benchmarks.report import machine
from tests.benchmarks.watches import MINUTES, Traffic, Whole, World

RUNS = 10_000
OTHER_RUNS = 2_000
FAULT_RUNS = 400
WANTED_FALSE_ABORTS = 0.01
RESULTS = Path(__file__).parent / "VERDICTS.md"

_BATCH = 20
"""Watches that share a traffic."""
_PROCESSES = 2
_BREAKS_AT = 120
"""Minute in which an instrument or the candidate dies."""
_PEEK_FROM = 50
"""Good answers of both arms that the rival waits for."""

Rows = list[tuple[str, ...]]
"""A table: its head, then its rows."""
Looks = Callable[[Measurement], list[Measurement]]
"""Does to a watch what happens to its instruments; returns it in pieces, one after the other."""


def whole(watch: Measurement) -> list[Measurement]:
    """Leave the watch as it is."""
    return [watch]


def _halves(watch: Measurement) -> tuple[Measurement, Measurement]:
    before = watches.each(lambda array: array[:, :_BREAKS_AT], watch)
    return before, watches.each(lambda array: array[:, _BREAKS_AT:], watch)


def _deaf(watch: Measurement) -> list[Measurement]:
    before, after = _halves(watch)
    return [before, replace(after, scraped=None, trouble="Prometheus gave no answer")]


def _down(watch: Measurement) -> list[Measurement]:
    before, after = _halves(watch)
    return [before, replace(after, scraped=replace(after.scraped, up=np.zeros_like(after.scraped.up)))]


def _without_receipts(watch: Measurement) -> list[Measurement]:
    """Freeze all figures but Prometheus's: receipts come no more."""
    before, after = _halves(watch)
    frozen = watches.each(lambda array: np.repeat(array[:, :1], array.shape[1], axis=1), after)
    return [before, replace(frozen, elapsed_s=after.elapsed_s, scraped=after.scraped)]


def _stale(watch: Measurement) -> list[Measurement]:
    return [replace(watch, canary=replace(watch.canary, wrong_version=watch.canary.answers))]


def _silent(watch: Measurement) -> list[Measurement]:
    nothing = watches.each(np.zeros_like, watch)
    up = replace(nothing.scraped, up=np.ones_like(watch.scraped.up))
    return [replace(nothing, elapsed_s=watch.elapsed_s, scraped=up)]


@dataclass(frozen=True, slots=True)
class Case:
    """A world, what befalls its instruments, and what the judge should say."""

    world: World
    wanted: Verdict
    looks: Looks = whole
    from_minute: int = 0
    """When the trouble begins."""


PLAN = Plan.from_row({})
"""The limits as they come, whatever the surroundings say."""
SOUND = Case(World("errors 1 % in both arms"), Verdict.PASS)
RARELY = Case(World("errors 0.1 % in both arms", errors=0.001), Verdict.PASS)
RESTLESS = Case(World("errors 1 %, five times the unrest", unrest=5), Verdict.PASS)
ALIKE = (SOUND, RARELY, RESTLESS)
FAULTS = (
    Case(World("mean 700 ms", slower=700 / watches.MEAN_MS), Verdict.FAIL),
    Case(World("p99 x 3, mean 87 ms", slow_share=0.02, slow_ms=3 * watches.P99_MS), Verdict.FAIL),
    Case(World("errors 1 % → 2 %", canary_errors=0.02), Verdict.FAIL),
    Case(World("errors 0.1 % → 1 %", errors=0.001, canary_errors=0.01), Verdict.FAIL),
    Case(World("empty lists for 2 % of the users", empty_users=0.02), Verdict.FAIL),
    Case(World("10 points more from below the personal rung", strangers_more=0.1), Verdict.FAIL),
    Case(World("popularity only", strangers_more=1.0), Verdict.FAIL),
    Case(World("split of 50 % instead of 20 %", canary_share=0.5), Verdict.FAIL),
    Case(World("5 % of the users flip between arms", flipping=0.05), Verdict.FAIL),
    Case(World("stale version"), Verdict.FAIL, _stale),
    Case(World("candidate dies after 2 h"), Verdict.FAIL, _down, _BREAKS_AT),
    Case(World("Prometheus dies after 2 h"), Verdict.INSTRUMENT_BROKEN, _deaf, _BREAKS_AT),
    Case(
        World("receipts stop after 2 h"),
        Verdict.INSTRUMENT_BROKEN,
        _without_receipts,
        _BREAKS_AT,
    ),
    Case(World("nobody asks"), Verdict.NO_TRAFFIC, _silent),
    Case(World("nobody meets the candidate", canary_share=0.0), Verdict.NO_TRAFFIC),
)


@dataclass(frozen=True, slots=True)
class Job:
    """Some watches of a case."""

    case: Case
    seed: int
    runs: int


@dataclass(slots=True)
class Outcome:
    """How watches ended: one entry for each in every array."""

    verdict: npt.NDArray[np.str_]
    """Of the look that ended it: the first abort, or the one when the window is over."""
    minute: Whole
    """Looks it took to the verdict that was wanted; 0: it never came."""
    answers: Doubles
    """Answers of the candidate by then."""
    broken: dict[str, Flags]
    """Which rules were broken when it was aborted."""
    peeked: dict[str, Whole]
    """Looks after which the rival would have aborted, by what it compares; 0: it never would."""
    ancestor: Flags
    """Whether the mean was too large in the end."""


def play(job: Job) -> Outcome:
    """Simulate watches, judge them, and let the rivals judge."""
    case, rng = job.case, np.random.default_rng([job.seed, *job.case.world.name.encode()])
    traffic = Traffic.draw(rng)
    watch = watches.stacked([watches.measure(case.world, traffic, rng) for _ in range(job.runs)])
    pieces = case.looks(watch)
    judged = [verdicts(PLAN, piece) for piece in pieces]
    verdict = np.concatenate([piece.verdict for piece in judged], axis=1)
    aborted = _first(verdict == Verdict.FAIL)
    last = np.where(aborted > 0, aborted, MINUTES) - 1
    runs = np.arange(job.runs)
    wanted = _first((verdict == case.wanted) & (np.arange(MINUTES) >= case.from_minute))
    answers = np.concatenate([piece.canary.answers for piece in pieces], axis=1)
    return Outcome(
        verdict=verdict[runs, last],
        minute=wanted,
        answers=answers[runs, np.maximum(wanted, 1) - 1],
        broken={
            rules[0].rule: (aborted > 0)
            & np.concatenate([rule.breached for rule in rules], axis=1)[runs, last]
            for rules in zip(*(piece.findings for piece in judged), strict=True)
        },
        peeked={
            "errors": _first(np.concatenate([errors_differ(piece) for piece in pieces], axis=1)),
            "mean": _first(np.concatenate([means_differ(piece) for piece in pieces], axis=1)),
        },
        ancestor=np.asarray(pieces[-1].canary.time.mean)[:, -1] >= PLAN.max_mean_ms,
    )


def _first(flags: Flags) -> Whole:
    """Return the looks up to the first true one of each row; 0: none is."""
    return np.where(flags.any(axis=1), flags.argmax(axis=1) + 1, 0)


# --- the rival --------------------------------------------------------------------------------------------


def errors_differ(watch: Measurement) -> Flags:
    """Test two proportions at 95 % at every look: do more of the candidate's answers fail?"""
    ours, theirs = watch.canary.failed, watch.stable.failed
    pooled = ratio(ours.k + theirs.k, ours.n + theirs.n, without=0.0)
    error = np.sqrt(pooled * (1 - pooled) * (ratio(1, ours.n, without=0) + ratio(1, theirs.n, without=0)))
    return _significant(watch, ours.share - theirs.share, error)


def means_differ(watch: Measurement) -> Flags:
    """Test two means at 95 % at every look: does the candidate take longer?"""
    ours, theirs = watch.canary.time, watch.stable.time
    error = np.sqrt(ratio(ours.variance, ours.n, without=0.0) + ratio(theirs.variance, theirs.n, without=0.0))
    return _significant(watch, ours.mean - theirs.mean, error)


def _significant(watch: Measurement, worse: Number, error: Number) -> Flags:
    enough = np.minimum(watch.canary.time.n, watch.stable.time.n) >= _PEEK_FROM
    return np.asarray(enough & (ratio(worse, error, without=0.0) > stats.norm.ppf(0.975)))


# --- tables -----------------------------------------------------------------------------------------------


def sound_table(outcomes: dict[Case, Outcome]) -> Rows:
    """Tell what becomes of candidates that are as good as stable."""
    rows: Rows = [("Both arms alike", "Watches", "Aborted", "95 % interval", "Passed at 12 h", "Held on")]
    for case, outcome in outcomes.items():
        aborted = int(np.sum(outcome.verdict == Verdict.FAIL))
        shares = [np.mean(outcome.verdict == verdict) for verdict in (Verdict.PASS, Verdict.UNDECIDED)]
        told = share_of(aborted, len(outcome.verdict))
        rows.append(
            (case.world.name, f"{len(outcome.verdict):,}", *told, *(f"{share:.1%}" for share in shares))
        )
    return rows


def rules_table(outcome: Outcome) -> Rows:
    """Tell which rules took sound candidates away, and what peeking would have done."""
    flags = {f"rule: {rule}": broken for rule, broken in outcome.broken.items()}
    flags |= {f"peeking: {name}": peeked(outcome, name) > 0 for name in (*outcome.peeked, "either")}
    told = [(name, *share_of(int(alarms.sum()), len(alarms))) for name, alarms in flags.items()]
    return [(f"Taken away by, {SOUND.world.name}", "Share", "95 % interval"), *told]


def faults_table(outcomes: dict[Case, Outcome]) -> Rows:
    """Tell what is caught and how fast."""
    rows: Rows = [("Trouble", "Wanted", "Share", "Else", "Median", "90 % within", "Answers")]
    for case, outcome in outcomes.items():
        got = outcome.minute > 0
        took = outcome.minute[got] - case.from_minute
        others = Counter(outcome.verdict[~got].tolist())
        rows.append(
            (
                case.world.name,
                str(case.wanted),
                f"{got.mean():.1%}",
                ", ".join(f"{name} {count / len(got):.1%}" for name, count in others.items()),
                duration(60 * np.median(took)) if got.any() else "",
                duration(60 * np.quantile(took, 0.9)) if got.mean() >= 0.9 else "",
                f"{np.median(outcome.answers[got]):,.0f}" if got.any() else "",
            )
        )
    return rows


def rivals_table(outcomes: dict[Case, Outcome]) -> Rows:
    """Tell which rules caught what, and what the rivals do."""
    rows: Rows = [("Trouble", "Rules broken then", "Peeking", "Median", "Mean < 500 ms alone")]
    for case, outcome in outcomes.items():
        broken = {rule: share for rule, flags in outcome.broken.items() if (share := flags.mean()) >= 0.05}
        looks = peeked(outcome, "either")
        rows.append(
            (
                case.world.name,
                ", ".join(f"{rule} {share:.0%}" for rule, share in broken.items()),
                f"{np.mean(looks > 0):.0%}",
                duration(60 * np.median(looks[looks > 0])) if looks.any() else "",
                f"{outcome.ancestor.mean():.0%}",
            )
        )
    return rows


def peeked(outcome: Outcome, name: str) -> Whole:
    """Return after how many looks the rival would have aborted by ``name``, or by the first of all."""
    if name != "either":
        return outcome.peeked[name]
    never = MINUTES + 1
    looks = np.min([np.where(looks > 0, looks, never) for looks in outcome.peeked.values()], axis=0)
    return np.where(looks < never, looks, 0)


def share_of(count: int, runs: int) -> tuple[str, str]:
    """Return a share and its interval by Clopper and Pearson."""
    interval = stats.binomtest(count, runs).proportion_ci(method="exact")
    return f"{count / runs:.2%}", f"{interval.low:.2%} to {interval.high:.2%}"


# --- all of it --------------------------------------------------------------------------------------------


def main(runs: int) -> bool:
    """Simulate, print and write the tables; returns whether sound candidates are taken away seldom enough."""
    console, began = Console(), time.perf_counter()
    console.width = max(console.width, 120)
    wanted = {
        **dict.fromkeys(ALIKE, min(runs, OTHER_RUNS)),
        **dict.fromkeys(FAULTS, min(runs, FAULT_RUNS)),
        SOUND: runs,
    }
    outcomes = simulate(wanted)
    faults = {case: outcomes[case] for case in FAULTS}
    tables = {
        "Nothing is wrong": sound_table({case: outcomes[case] for case in ALIKE}),
        "What takes a sound candidate away": rules_table(outcomes[SOUND]),
        "Something is wrong": faults_table(faults),
        "Beside it": rivals_table(faults),
    }
    for title, rows in tables.items():
        show(console, title, rows)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = (
        f"{sum(wanted.values()):,} watches of 12 h in {time.perf_counter() - began:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of a core"
    )
    console.print(took)
    if runs >= RUNS:
        sections = "\n".join(f"## {title}\n\n{markdown(rows)}" for title, rows in tables.items())
        RESULTS.write_text(f"{head()}\n{sections}\n{took}, on {machine()}.\n")
    return bool(np.mean(outcomes[SOUND].verdict == Verdict.FAIL) <= WANTED_FALSE_ABORTS)


def simulate(wanted: dict[Case, int]) -> dict[Case, Outcome]:
    """Play so many watches of each case."""
    jobs = [
        Job(case, seed, min(_BATCH, runs - seed * _BATCH))
        for case, runs in wanted.items()
        for seed in range(-(-runs // _BATCH))
    ]
    played = []
    with shown("watching", "jobs") as progress, ProcessPoolExecutor(_PROCESSES) as pool:
        progress(0, len(jobs))
        for outcome in pool.map(play, jobs, chunksize=2):
            played.append(outcome)
            progress(len(played), len(jobs))
    return {
        case: together([outcome for job, outcome in zip(jobs, played, strict=True) if job.case == case])
        for case in wanted
    }


def together(parts: list[Outcome]) -> Outcome:
    """Put the watches of several jobs into one outcome."""
    return watches.each(lambda *arrays: np.concatenate(arrays), *parts)


def head() -> str:
    """Say what was simulated."""
    sizes = least_sizes(PLAN)
    return f"""\
# How often the judge errs

Written by `make verdicts`: simulated watches of 12 h at {watches.REQUESTS_PER_S} requests/s in all, looked at every
minute, through the judge that watches releases, with its settings as they come.

- Users: {watches.USERS:,}, who ask three times on average, some often; {watches.CANARY_SHARE:.0%} of them meet the candidate.
  {watches.STRANGERS:.0%} always get an answer from below the personal rung. A tenth fails three times as often as the others.
- Traffic: follows the day between half and one and a half times its mean.
- Response times: lognormal, mean {watches.MEAN_MS:g} ms, p99 {watches.P99_MS:g} ms. They drift from minute to minute, in both arms
  together ({watches.DRIFT_SHARED:.0%}) and in each ({watches.DRIFT_OWN:.0%}), and a minute hands {watches.DRIFT_KEEPS:.0%} of it on.
- Hiccups: in each arm about every {1 / watches.HICCUPS_PER_HOUR:.0f} hours all takes {watches.HICCUP_SLOWER:g} times as long for a minute or two; as
  often {watches.HICCUP_FAILS:.0%} of the answers fail. Unrest multiplies their number, and the drift in each arm.

A pass needs so many independent answers of the candidate: {sizes.errors:,.0f} to see errors of {PLAN.usual_error_share:.0%} become
{PLAN.see_error_share:.0%}, {min(sizes.p95, sizes.p99):,.0f} to see {PLAN.see_slow_share:.0%} beyond the limit of the p99, {sizes.below:,.0f} to see {100 * PLAN.see_below_more:.0f} points more from below
the personal rung. Wanted: at most {WANTED_FALSE_ABORTS:.0%} of sound candidates taken away in a whole watch.

Peeking is the rival: two proportions (errors) and two means, each tested at 95 % at every look as if it were
the only one, from {_PEEK_FROM} good answers on. "Else" is what the watch said instead; "Answers" are the candidate's by then.
"""  # noqa: E501 - lines of Markdown


def show(console: Console, title: str, rows: Rows) -> None:
    """Print a table."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def markdown(rows: Rows) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "".join([lines[0], "|" + "---|" * len(rows[0]) + "\n", *lines[1:]])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
