"""The shell: every step of Marquee without Airflow. ``python -m pipelines --help``."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipelines import logs
from pipelines.alerts import Alert
from pipelines.errors import Locked, MarqueeError, NothingNew, Refused, SettingsError
from pipelines.settings import EventSource, Settings, read

# Rooms are imported inside the commands: `--help` and `recommend` need not wait for pandas or DVC.

log = logging.getLogger("pipelines")
errors = Console(stderr=True)


class Exit(IntEnum):
    """What the exit codes mean."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOTHING_NEW = 4
    LOCKED = 5
    UNDECIDED = 6


_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 3 data, model or candidate refused, "
    "4 nothing new, 5 another process holds the lock, 6 a person has to decide."
)

app = typer.Typer(
    help="Retrain, release and account for a movie recommender.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run a command; errors meant for people are printed as such and become exit codes."""
    try:
        app()
    except MarqueeError as error:
        errors.print(f"[red]{type(error).__name__}[/red]: ", end="")
        errors.print(str(error), markup=False, highlight=False)
        sys.exit(_exit_code(error))


def _exit_code(error: MarqueeError) -> Exit:
    codes: list[tuple[type[MarqueeError], Exit]] = [
        (NothingNew, Exit.NOTHING_NEW),
        (Refused, Exit.REFUSED),
        (Locked, Exit.LOCKED),
        (SettingsError, Exit.USAGE),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), Exit.FAILED)


@app.callback()
def configure(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False) -> None:
    """Prepare the logs."""
    logs.configure(verbose=verbose)


# --- data and model -----------------------------------------------------------------------------


@app.command()
def collect(
    file: Annotated[
        Path | None, typer.Option(help="Archived log, one event per line (also .gz).", dir_okay=False)
    ] = None,
    kafka: Annotated[str | None, typer.Option(help="Bootstrap servers host:port[,host:port].")] = None,
    topic: Annotated[str | None, typer.Option(help="Kafka topic; default: the setting.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the batches; default: the setting.")] = None,
) -> None:
    """Collect events into Parquet batches, from the last collected offset to the end as it stands now.

    Prints one JSON object: lines, counts per kind, rejects per reason, first and last offset.
    """
    from pipelines.data.collect import collect as collect_events
    from pipelines.retrain import source_of

    if file is not None and kafka is not None:
        raise typer.BadParameter("give either --file or --kafka, not both")
    overrides: dict[str, Any] = {}
    if file is not None:
        overrides |= {"event_source": EventSource.FILE, "event_file": file}
    if kafka is not None:
        overrides |= {"event_source": EventSource.KAFKA, "kafka_servers": kafka}
    if topic is not None:
        overrides["kafka_topic"] = topic
    config = read(**overrides)
    source = source_of(config)
    try:
        with _bar("collect") as progress:
            collected = collect_events(
                source, out or config.batches_dir, batch_lines=config.batch_lines, progress=progress
            )
    finally:
        source.close()
    _print_json(collected.as_json())


@app.command()
def validate(
    batches: Annotated[Path | None, typer.Option(help="Folder of the batches; default: the setting.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; default: beside the batches.")
    ] = None,
) -> None:
    """Check every batch with Great Expectations; prints the report, exits 3 on a critical failure."""
    from datetime import UTC, datetime

    from pipelines.data.batches import list_batches
    from pipelines.data.validate import validate as validate_batches
    from pipelines.retrain import SUITES_DIR

    folder = batches or read().batches_dir
    path = report or folder / "report.json"
    names = [batch.name for batch in list_batches(folder)]
    result = validate_batches(folder, names, SUITES_DIR, path, now=datetime.now(UTC))
    _print_json(json.loads(path.read_text()))
    if not result.success:
        raise Refused(
            f"{len(result.failed_lines())} check(s) failed: {'; '.join(result.failed_lines())}; see {path}"
        )


@app.command()
def train(
    ratings: Annotated[
        Path, typer.Option(help="CSV user_id,movie_id,rating,timestamp, or a folder of batches.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model; replaced when it is there.")],
    scale: Annotated[
        str | None, typer.Option(help="Rating scale MIN:MAX; default: found in the data.")
    ] = None,
) -> None:
    """Train a model and print its figures as JSON: hold-out RMSE, ranking, counts."""
    from pipelines.model.train import evaluate_and_train, load_ratings, load_viewings
    from pipelines.retrain import train_config

    with _bar("train") as progress:
        config = read()
        meta = evaluate_and_train(
            load_ratings(ratings),
            load_viewings(ratings),
            out,
            config=train_config(config),
            holdout_share=config.holdout_share,
            scale=_scale(scale),
            serving=None,
            provenance={"ratings": ratings.name},
            progress=progress,
        )
    _print_json({**meta["counts"], **meta["metrics"]})


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="Folder of the model.", exists=True, file_okay=False)],
    ratings: Annotated[
        Path, typer.Option(help="Ratings the model has not seen: CSV or folder of batches.", exists=True)
    ],
) -> None:
    """Score a model on ratings and print RMSE and ranking figures as JSON."""
    from pipelines.model.artifact import load
    from pipelines.model.evaluate import score
    from pipelines.model.train import load_ratings

    _print_json(score(load(model), load_ratings(ratings)))


@app.command()
def recommend(
    model: Annotated[Path, typer.Option(help="Folder of the model.", exists=True, file_okay=False)],
    user: Annotated[list[str] | None, typer.Option(help="User id; may be repeated.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="File with one user id per line.", exists=True, dir_okay=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Length of each list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per user and line.")] = False,
) -> None:
    """Recommend movies, best first; movies rated in training are left out."""
    from pipelines.model.artifact import load

    listed = users.read_text().splitlines() if users else []
    wanted = [*(user or []), *(line.strip() for line in listed if line.strip())]
    if not wanted:
        raise typer.BadParameter("give --user or --users")
    loaded = load(model)
    for user_id in wanted:
        movie_ids = loaded.recommend(user_id, k).movie_ids
        print(
            json.dumps({"user_id": user_id, "movie_ids": movie_ids}, ensure_ascii=False)
            if as_json
            else f"{user_id}: {','.join(movie_ids)}"
        )


@app.command()
def retrain() -> None:
    """Run the whole training without Airflow: collect, validate, train, gate, version."""
    from datetime import UTC, datetime

    from pipelines import retrain as steps

    run_id = f"shell-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with _bar("collect") as progress:
        _print_json({"version": steps.run(read(), run_id=run_id, announce=_announce, progress=progress)})


# --- versions and releases ------------------------------------------------------------------------


@app.command()
def versions(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the versions in the registry with RMSE, commit and what became of them."""
    from pipelines.release import world

    config = read()
    known = world.registry(config).versions()
    if as_json:
        _print_json([info.as_json() for info in known])
        return
    table = Table("version", "created", "RMSE", "commit", "became")
    for info in known:
        table.add_row(
            str(info.number),
            f"{info.created_at:%Y-%m-%d %H:%M}",
            f"{info.rmse:.4f}",
            info.commit[:10],
            info.note,
        )
    Console().print(table)


@app.command()
def release(
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to release; default: the newest.")
    ] = None,
) -> None:
    """Release a version as Airflow would: preflight, canary, watch, then promote or abort."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    here = world(config)
    opened = steps.open_release(here, version=version, plan=Plan.of(config), requested_by="shell")
    _conclude(config, opened.release_id)


@app.command()
def decide(
    release_id: Annotated[int, typer.Argument(help="Number of the release; `status` lists them.")],
    promote: Annotated[bool, typer.Option("--promote/--abort", help="What is to become of it.")],
    who: Annotated[str, typer.Option(help="Who decides; kept in the ledger.")],
) -> None:
    """Decide a release that could not be measured."""
    from pipelines.release import steps
    from pipelines.release.world import world

    step = steps.promote if promote else steps.abort
    step(world(read()), release_id, announce=_announce, decided_by=who)


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(min=1, help="Version to put back.")],
    why: Annotated[str, typer.Option(help="Reason, kept in the ledger.")] = "",
) -> None:
    """Put any registered version back for all viewers, without training or network."""
    from pipelines.release import steps
    from pipelines.release.plan import Plan
    from pipelines.release.world import world

    config = read()
    steps.rollback(
        world(config), version, plan=Plan.of(config), why=why, requested_by="shell", announce=_announce
    )


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show who serves what, the split, and the latest releases with their verdicts."""
    from pipelines.release.status import as_tables, snapshot
    from pipelines.release.world import world

    state = snapshot(world(read()))
    if as_json:
        _print_json(state.as_json())
    else:
        Console().print(*as_tables(state), sep="\n")


# --- the machine ----------------------------------------------------------------------------------


@app.command()
def recorder() -> None:
    """Ship receipts from the spool to the records database until stopped."""
    from pipelines.local.signals import stop_event
    from pipelines.records import recorder as shipping

    config = read()
    shipping.run(config.records, config.spool_dir, every_s=1.0, stop=stop_event())


@app.command()
def demo(
    scenario: Annotated[str, typer.Option(help="good, slow or bad-rmse.")] = "good",
    once: Annotated[bool, typer.Option("--once", help="Stop everything after the verdict.")] = False,
) -> None:
    """Play the whole loop on this machine, live, with Airflow, Kafka, NGINX and Prometheus."""
    from pipelines.local.demo import SCENARIOS, run

    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"{scenario!r} is no scenario; there are {', '.join(SCENARIOS)}")
    if not run(SCENARIOS[scenario], once=once, console=Console(soft_wrap=True)):
        raise typer.Exit(Exit.FAILED)


@app.command()
def up() -> None:
    """Start the one-machine stack in the background, with whatever served before."""
    from pipelines.local import airflow
    from pipelines.local.stack import bring_up

    config = read()
    bring_up(config)
    password = airflow.admin_password(config.var_dir / "airflow")
    print(f"Airflow UI  {config.airflow_url}  login: {airflow.USER}  password: {password}")
    print(f"recommend   {config.recommend_url}/<user>")
    print(f"Prometheus  {config.prometheus}")


@app.command()
def down() -> None:
    """Stop the one-machine stack and a demo that was left behind."""
    from pipelines.local.stack import Stack

    config = read()
    for folder in (config.var_dir, config.var_dir / "demo"):
        Stack(read(var_dir=folder), kafka_home=None).stop()


@app.command()
def audience(
    taste: Annotated[str, typer.Option(help="How viewers rate: movielens, or random.")] = "movielens",
    seed: Annotated[int, typer.Option(help="Of all that viewers do.")] = 1,
    requests_per_s: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Recommendation requests a second.")
    ] = 10.0,
) -> None:
    """Play the viewers: ask for recommendations and write the event stream, until stopped."""
    from pipelines.local.audience.loop import run
    from pipelines.local.audience.sinks import FileSink, KafkaSink
    from pipelines.local.audience.viewers import Taste
    from pipelines.local.signals import stop_event

    config = read()
    to_file = config.event_source is EventSource.FILE and config.event_file
    run(
        config.recommend_url,
        FileSink(to_file) if to_file else KafkaSink(config.kafka, config.kafka_topic),
        stop_event(),
        seed=seed,
        requests_per_s=requests_per_s,
        taste=Taste(taste),
    )


@app.command()
def catch(what: Annotated[str, typer.Argument(help="smtp or slack.")]) -> None:
    """Catch alerts on this machine instead of sending them, until stopped."""
    from pipelines.local import catchers

    config = read()
    if what == "smtp":
        catchers.run_smtp(config.smtp_catcher_port, config.var_dir / "mails")
    elif what == "slack":
        catchers.run_slack(config.slack_catcher_port, config.var_dir / "slack")
    else:
        raise typer.BadParameter(f"{what!r} cannot be caught; there are smtp and slack")


@app.command()
def settings() -> None:
    """Print .env.example: every setting with its default and meaning."""
    from pipelines.settings import example

    print(example(), end="")


def _conclude(config: Settings, release_id: int) -> None:
    """Bring an open release to its end, looking at it from here."""
    from pipelines.release import steps
    from pipelines.release.world import world

    here = world(config)
    try:
        log.info("%s", steps.preflight(here, release_id))
        steps.start_canary(here, release_id)
        while not (judgement := steps.look(here, release_id)).final:
            log.info("%s: %s", judgement.verdict, judgement.reason)
            time.sleep(config.look_every_s)
        log.info("%s: %s", judgement.verdict, judgement.reason)
    finally:
        # Whatever happened, the candidate does not stay without a verdict.
        what = steps.outcome(here, release_id)
        if what == "abort":
            steps.abort(here, release_id, announce=_announce)
    if what == "ask":
        steps.ask(here, release_id, announce=_announce)
        raise typer.Exit(Exit.UNDECIDED)
    if what == "abort":
        raise typer.Exit(Exit.REFUSED)
    steps.promote(here, release_id, announce=_announce)


def _announce(alert: Alert) -> None:
    """Without Airflow there are no connections: alerts go to the log."""
    log.warning("%s", alert.text)


def _scale(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        scale = float(low), float(high)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no scale; write MIN:MAX, for example 1:5") from None
    if scale[0] >= scale[1]:
        raise typer.BadParameter(f"{text!r} is no scale: its minimum is not below its maximum")
    return scale


@contextmanager
def _bar(what: str, total: int | None = 0) -> Iterator[Any]:
    """Draw a progress bar on standard error; yields ``progress(done, total)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print_json(value: Any) -> None:
    # One line for programs, indented for people.
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
