"""The text of every alert, in one place: what was observed, the limit, where to look, what to do."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Alert:
    """What Slack shows and the e-mail carries."""

    title: str
    """One line, also the subject of the e-mail."""
    body: str
    """Plain text: observed, limit, where to look, what to do."""
    key: str = ""
    """Names what is told, where it may be told once only; the e-mail's Message-ID is made from it."""

    @property
    def text(self) -> str:
        """Title and body together, for Slack and logs."""
        return f"{self.title}\n{self.body}"


Announce = Callable[[Alert], None]
"""Sends an alert; what cannot be delivered is its own business."""


def data_refused(failed: list[str], report: str) -> Alert:
    """New data broke a critical expectation; ``failed`` are its lines with counts."""
    lines = "\n".join(f"- {line}" for line in failed)
    return Alert(
        title=f"Marquee: data refused, {len(failed)} critical check(s) failed",
        body=f"Observed:\n{lines}\nNothing was trained; the serving model stays.\n"
        f"Where to look: {report}\n"
        "What to do: expectations/README.md says for each check why it exists and what to do; "
        "`python -m pipelines quarantine` takes what is wrong out of the way of later trainings.",
    )


def model_refused(headline: str, reason: str, where: str) -> Alert:
    """The gate refused a model; ``headline`` names what was refused, with its figures."""
    return Alert(
        title=f"Marquee: model refused, {headline}",
        body=f"Observed: {reason}\nNothing was released; the serving model stays.\n"
        f"Where to look: {where}\n"
        "What to do: look at the newest ratings and viewings; retrain when they are sound, or change "
        "MARQUEE_MAX_RMSE, MARQUEE_MAX_RMSE_WORSE or MARQUEE_MAX_RANKING_WORSE if the limit is wrong.",
    )


def registry_not_pushed(version: int, reason: str) -> Alert:
    """A version exists only on this machine."""
    return Alert(
        title=f"Marquee: version {version} could not be pushed",
        body=f"Observed: {reason}\nThe version is complete on this machine and goes on to release.\n"
        "What to do: mend the remote; the next run pushes everything that is missing.",
    )


def stream_changed(notes: list[str]) -> Alert:
    """The topic is not the one that was collected before."""
    lines = "\n".join(f"- {note}" for note in notes)
    return Alert(
        title="Marquee: the event topic changed under us",
        body=f"Observed:\n{lines}\nEverything collected before is kept and still trained on.\n"
        "What to do: nothing, if the topic was re-created or trimmed on purpose.",
    )


def events_lost(count: int, topic: str, gaps: list[str]) -> Alert:
    """Retention took lines that nobody had collected; ``gaps`` say which, and since when."""
    lines = "\n".join(f"- {gap}" for gap in gaps)
    return Alert(
        title=f"Marquee: up to {count:,} line(s) of {topic} lost",
        body=f"Observed: the broker let go of them before they were collected:\n{lines}\n"
        "No training will have them. What comes behind them is collected and keeps their range on record.\n"
        "Where to look: the runs of the DAG `collect`, and retention.ms and retention.bytes of the topic\n"
        "What to do: let `collect` run every hour, or let the broker keep events longer. If an archive has "
        "the lines, `python -m pipelines collect --file LOG` brings them in.",
    )


def promoted(release_id: int, version: int, previous: int | None, reason: str, where: str) -> Alert:
    """A version now answers all viewers."""
    return Alert(
        title=f"Marquee: version {version} promoted",
        body=f"Observed: {reason}\nBefore: {_serving(previous)}.\nWhere to look: {where}",
        key=f"release-{release_id}-promoted",
    )


def aborted(release_id: int, version: int, serving: int | None, reason: str, where: str) -> Alert:
    """A candidate was taken away."""
    return Alert(
        title=f"Marquee: version {version} taken away",
        body=f"Observed: {reason}\nStill serving: {_serving(serving)}.\n"
        f"Where to look: {where}\n"
        "What to do: find out why before the next release; "
        "`python -m pipelines status` shows the looks that led here.",
        key=f"release-{release_id}-aborted",
    )


def asked(release_id: int, version: int, reason: str, where: str) -> Alert:
    """Nothing could be measured; a person has to decide."""
    return Alert(
        title=f"Marquee: version {version} needs your decision",
        body=f"Observed: {reason}\nThe candidate keeps its share of the users until you decide.\n"
        f"Where to look: {where}\n"
        "What to do: open the task `ask` of the run and choose promote or take away, or use the DAG `steer`.",
        key=f"release-{release_id}-asked",
    )


def instrument_broken(release_id: int, version: int, trouble: str, since: datetime, where: str) -> Alert:
    """A watch goes on that measures nothing."""
    return Alert(
        title=f"Marquee: version {version} cannot be judged, an instrument is broken",
        body=f"Observed: {trouble}\nNo look has been measured since {since:%Y-%m-%d %H:%M} UTC. "
        "The candidate keeps its share of the users: a broken instrument neither promotes nor aborts.\n"
        f"Where to look: {where}, and the log of Prometheus or of the recorder\n"
        "What to do: mend the instrument, and the watch goes on by itself.",
        key=f"release-{release_id}-instrument",
    )


def not_guarded(release_id: int, version: int, reason: str, where: str) -> Alert:
    """A guard ended without having been able to judge."""
    return Alert(
        title=f"Marquee: version {version} serves, its guard could not judge it",
        body=f"Observed: {reason}\nThe version stays: only a measured fault takes it back.\n"
        f"Where to look: {where}\n"
        "What to do: look at Prometheus and the latest receipts yourself; the DAG `rollback` puts an older "
        "version back.",
        key=f"release-{release_id}-not-guarded",
    )


def reverted(release_id: int, version: int, previous: int, reason: str, where: str) -> Alert:
    """The guard took a promoted version back."""
    return Alert(
        title=f"Marquee: version {version} taken back, version {previous} serves again",
        body=f"Observed: {reason}\nAll viewers get version {previous} again.\n"
        f"Where to look: {where}\n"
        "What to do: find out what the watch before the promotion could not see; "
        "`python -m pipelines status` shows the looks.",
        key=f"release-{release_id}-reverted",
    )


def rolled_back(release_id: int, version: int, previous: int | None, why: str, where: str) -> Alert:
    """A person put a version back."""
    return Alert(
        title=f"Marquee: rolled back to version {version}",
        body=f"Observed: {_serving(previous)} was serving. Reason given: {why or 'none'}.\n"
        f"Where to look: {where}",
        key=f"release-{release_id}-rolled-back",
    )


def drilled(run: str, lines: list[str], missed: list[str], false_alarms: list[str]) -> Alert:
    """A fire drill is over: a line for each fault, which were ``missed``, and who caught a sound replica."""
    tried = len(lines)
    title = f"Marquee: fire drill over, all {tried} as they should be"
    todo = "nothing."
    if missed or false_alarms:
        title = f"Marquee: FIRE DRILL FAILED, {len(missed)} missed, {len(false_alarms)} false alarm(s)"
        todo = (
            "do not trust the next release to be judged alone: watch it yourself, and mend what should have "
            "caught this (the limits of the plan: MARQUEE_MAX_*, MARQUEE_PREFLIGHT_*)."
        )
    observed = [f"- {line}" for line in lines]
    observed += [f"MISSED: a replica that is {fault} would have reached viewers" for fault in missed]
    observed += [f"FALSE ALARM: a sound replica was caught by {alarm}" for alarm in false_alarms]
    return Alert(
        title=title,
        body="Observed:\n" + "\n".join(observed) + "\nNo viewer was answered by any of them.\n"
        "Where to look: `python -m pipelines drill --list`, and the DAG `fire_drill`\n"
        f"What to do: {todo}",
        key=f"drill-{run}-{tried}",
    )


def receipts_lost(count: int, lines: list[str], where: str) -> Alert:
    """Answers were given without a receipt; ``lines`` say by whom and when, ``where`` is the spool."""
    listed = "\n".join(f"- {line}" for line in lines)
    return Alert(
        title=f"Marquee: {count:,} receipt(s) lost",
        body=f"Observed:\n{listed}\n"
        "Viewers got their answers, but what these were cannot be looked up any more.\n"
        f"Where to look: free space and permissions of {where}, and the logs of the replicas\n"
        "What to do: make room on that disk; the replicas keep receipts again by themselves.",
    )


def receipts_waiting(since: datetime, now: datetime, trouble: str, where: str) -> Alert:
    """Receipts do not reach the database; ``trouble`` is what it says, empty when it answers."""
    cause = (
        f"The records database does not answer: {trouble}." if trouble else "The records database answers."
    )
    return Alert(
        title="Marquee: receipts wait for the database",
        body=f"Observed: nothing written after {since:%Y-%m-%d %H:%M} UTC is in the database, "
        f"{(now - since).total_seconds() / 60:.0f} minutes ago. {cause}\n"
        "No receipt is lost and no answer waits: they lie in the spool until they are shipped.\n"
        f"Where to look: {where}, and the log of the program `recorder`\n"
        "What to do: bring the database or the recorder back; keep an eye on the free space meanwhile.",
    )


def alarmed(summaries: list[str], observed: list[str], where: str, runbook: str, *, key: str) -> Alert:
    """Alerts of one rule of Prometheus have begun to fire, one in ``summaries`` and ``observed`` each."""
    more = f", and {len(summaries) - 1} more like it" if len(summaries) > 1 else ""
    return Alert(
        title=f"Marquee: {summaries[0]}{more}",
        body="Observed:\n" + "\n".join(f"- {line}" for line in observed) + "\n"
        f"Where to look: {where}\nWhat to do: {runbook}",
        key=key,
    )


def alarms_over(summaries: list[str]) -> Alert:
    """Alerts of Prometheus that were told fire no more."""
    more = f", and {len(summaries) - 1} more" if len(summaries) > 1 else ""
    return Alert(
        title=f"Marquee: over: {summaries[0]}{more}",
        body="Observed: this has been told and is no longer so:\n"
        + "\n".join(f"- {line}" for line in summaries)
        + "\nWhat to do: nothing.",
    )


def prometheus_silent(since: datetime, now: datetime, trouble: str, where: str) -> Alert:
    """Prometheus does not answer; ``trouble`` is what was got instead."""
    return Alert(
        title="Marquee: Prometheus does not answer",
        body=f"Observed: no answer since {since:%Y-%m-%d %H:%M} UTC, "
        f"{(now - since).total_seconds() / 60:.0f} minutes ago: {trouble}\n"
        "Viewers get their answers, but nothing is measured: no release is judged, and no alert fires.\n"
        f"Where to look: {where}, and the log of Prometheus\n"
        "What to do: bring it back; what fires then is told.",
    )


def _serving(version: int | None) -> str:
    return f"version {version}" if version else "nothing"
