"""From events to a model, on the shell."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.code import code_version
from pipelines.commands.shell import announce, print_json, shown
from pipelines.errors import Refused
from pipelines.settings import EventSource, Settings, read

# Rooms are imported inside the commands: `--help` and `recommend` need not wait for pandas or DVC.


def collect(
    file: Annotated[
        list[Path] | None,
        typer.Option(help="Archived log, one event per line (also .gz); may be repeated.", dir_okay=False),
    ] = None,
    kafka: Annotated[str | None, typer.Option(help="Bootstrap servers host:port[,host:port].")] = None,
    topic: Annotated[str | None, typer.Option(help="Kafka topic; default: the setting.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the batches; default: the setting.")] = None,
) -> None:
    """Collect events into Parquet batches, from the last collected offset to the end as it stands now.

    Prints one JSON object: lines, counts per kind, rejects per reason, first and last offset; of several
    files one each, in their order.
    """
    if file and kafka is not None:
        raise typer.BadParameter("give either --file or --kafka, not both")
    overrides: dict[str, Any] = {}
    if kafka is not None:
        overrides |= {"event_source": EventSource.KAFKA, "kafka_servers": kafka}
    if topic is not None:
        overrides["kafka_topic"] = topic
    if not file:
        _collect(read(**overrides), out)
    for log in file or []:
        _collect(read(**overrides, event_source=EventSource.FILE, event_file=log), out)


def validate(
    batches: Annotated[Path | None, typer.Option(help="Folder of the batches; default: the setting.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; default: beside the batches.")
    ] = None,
) -> None:
    """Check every batch with Great Expectations; prints the report, exits 3 on a critical failure.

    Without --batches the data are also compared with those that the serving model was trained on.
    """
    from datetime import UTC, datetime

    from pipelines.checks.validate import validate as validate_batches
    from pipelines.data.batches import list_batches
    from pipelines.retrain import SUITES_DIR, reference

    folder = batches or read().batches_dir
    compared = "a folder was named, so there is no model to compare with" if batches else reference(read())
    path = report or folder / "report.json"
    names = [batch.name for batch in list_batches(folder)]
    with shown("validate", "checks") as progress:
        result = validate_batches(
            folder,
            names,
            SUITES_DIR,
            path,
            now=datetime.now(UTC),
            reference=compared,
            progress=progress,
        )
    print_json(json.loads(path.read_text()))
    if not result.success:
        raise Refused(
            f"{len(result.failed_lines())} check(s) failed: {'; '.join(result.failed_lines())}; see {path}"
        )


def train(
    ratings: Annotated[
        Path | None,
        typer.Option(help="CSV user_id,movie_id,rating,timestamp, or a folder of batches.", exists=True),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the model; replaced when it is there.", resolve_path=True),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Rating scale MIN:MAX; default: found in the data.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Instead: the step `train` of this run of the DAG, on what it has validated."),
    ] = None,
) -> None:
    """Train a model and print its figures as JSON: hold-out RMSE, ranking, counts."""
    from pipelines.model.artifact import check_replaceable
    from pipelines.model.train import evaluate_and_train, load_ratings, load_viewings
    from pipelines.retrain import train as train_step
    from pipelines.retrain import train_config

    if run is not None:
        if ratings or out or scale:
            raise typer.BadParameter("--run names data, folder and scale itself: give it alone")
        print_json(train_step(read(), run_id=run, show=shown))
        return
    if ratings is None or out is None:
        raise typer.BadParameter("give --ratings and --out, or --run")
    check_replaceable(out)
    with shown("train", "epochs") as progress:
        config = read()
        meta = evaluate_and_train(
            load_ratings(ratings),
            load_viewings(ratings),
            out,
            config=train_config(config),
            holdout_share=config.holdout_share,
            scale=_scale(scale),
            serving=None,
            provenance={"ratings": ratings.name, "code": code_version()},
            progress=progress,
        )
    print_json({**meta["counts"], **meta["metrics"]})


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

    print_json(score(load(model), load_ratings(ratings)))


def recommend(
    model: Annotated[Path, typer.Option(help="Folder of the model.", exists=True, file_okay=False)],
    user: Annotated[list[str] | None, typer.Option(help="User id; may be repeated.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="File with one user id per line.", exists=True, dir_okay=False)
    ] = None,
    watched: Annotated[
        list[str] | None, typer.Option(help="Movie watched since the training; may be repeated.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Length of each list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per user and line.")] = False,
) -> None:
    """Recommend movies, best first; what was rated or watched is left out."""
    from pipelines.model.artifact import load

    try:
        listed = users.read_text("utf-8-sig").splitlines() if users else []
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{users} is not UTF-8: {error}") from None
    wanted = [*(user or []), *(line.strip() for line in listed if line.strip())]
    if not wanted:
        raise typer.BadParameter("give --user or --users")
    loaded = load(model)
    for user_id in wanted:
        movie_ids = loaded.recommend(user_id, k, watched or ()).movie_ids
        print(
            json.dumps({"user_id": user_id, "movie_ids": movie_ids}, ensure_ascii=False)
            if as_json
            else f"{user_id}: {','.join(movie_ids)}"
        )


def retrain() -> None:
    """Run the whole training without Airflow: collect, validate, train, gate, version."""
    from datetime import UTC, datetime

    from pipelines import retrain as steps

    run_id = f"shell-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    print_json({"version": steps.run(read(), run_id=run_id, announce=announce, show=shown)})


def _collect(config: Settings, out: Path | None) -> None:
    from pipelines.data.collect import collect as collect_events
    from pipelines.retrain import source_of

    with closing(source_of(config)) as source, shown("collect", "lines") as progress:
        collected = collect_events(
            source,
            out or config.batches_dir,
            batch_lines=config.batch_lines,
            processes=config.collect_processes,
            announce=announce,
            progress=progress,
        )
    print_json(collected.as_json())


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
