"""The steps of a training, wired to the settings: what a task of the DAG and a shell command both call.

What one run makes lies in ``runs/<run_id>/`` until the version step puts it into the registry, so that
each step can be killed and run again.
"""

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.code import code_version, label
from pipelines.errors import (
    DataError,
    Locked,
    MarqueeError,
    NothingNew,
    Refused,
    SettingsError,
    TooEarly,
)
from pipelines.progress import Show, logged
from pipelines.settings import PROJECT_DIR, EventSource, KafkaClient, Settings

if TYPE_CHECKING:
    from pipelines.checks.profile import Reference
    from pipelines.data.collect import Collected
    from pipelines.data.quarantine import Quarantined
    from pipelines.events.sources import Source
    from pipelines.model.recipe import TrainConfig
    from pipelines.model.recommender import Model

# Rooms are imported inside the steps: each step is a process of its own under Airflow, and one that
# collects need not wait for scikit-surprise, nor one that judges for Great Expectations.

log = logging.getLogger(__name__)

PATIENCE_S = 600.0
"""How long a training waits for another process that collects; an hour's events take ten seconds."""
SUITES_DIR = PROJECT_DIR / "expectations"
KEEP_MODELS = 5
"""Runs whose models stay in their folders; a version has its own copy. Reports and verdicts of all stay."""
STARS = (1.0, 5.0)
"""Lowest and highest rating of the stream."""


def run(config: Settings, *, run_id: str, announce: Announce, show: Show = logged) -> int:
    """Run all steps in order, as the DAG does; returns the number of the new version."""
    collect(config, announce=announce, show=show)
    validate(config, run_id=run_id, announce=announce, show=show)
    train(config, run_id=run_id, show=show)
    gate(config, run_id=run_id, announce=announce)
    return version(config, run_id=run_id, announce=announce)


def collect_new(config: Settings, *, announce: Announce, show: Show = logged) -> dict[str, Any]:
    """Collect everything since the last collected offset.

    Raises:
        NothingNew: no event came.
        Locked: another process is collecting.
    """
    collected = _collected(config, announce, show, patience_s=0.0)
    if not collected.lines:
        raise NothingNew(f"no event has come to {source_of(config).name!r} since the last time")
    return collected.as_json()


def collect(
    config: Settings, *, announce: Announce, show: Show = logged, first_waits: bool = False
) -> dict[str, Any]:
    """Collect for a training: everything since the last collected offset.

    Another process that collects is waited for; when it takes too long, what is there by then is enough.

    Args:
        config: where from and where to.
        announce: is told of lines that were lost.
        show: shows how far it is.
        first_waits: a first training that would only be refused for want of ratings is `TooEarly`.

    Raises:
        NothingNew: no event came, no collected batch waits for its training, and the quarantine is the same.
        Locked: another process takes long, and there is nothing yet.
        TooEarly: there is no version, and not enough to judge a first one by.
    """
    from pipelines.data.collect import Collected

    try:
        collected = _collected(config, announce, show, patience_s=PATIENCE_S)
    except Locked as busy:
        if not (untrained(config) or emptied(config)):
            raise
        log.warning("%s; the training takes what is there by now", busy)
        collected = Collected()
    if first_waits:
        _check_first(config)
    waiting = untrained(config)
    if not waiting and not emptied(config):
        name = source_of(config).name
        raise NothingNew(f"no event has come to {name!r} since the last training; there is nothing to do")
    return {**collected.as_json(), "untrained": waiting}


def _check_first(config: Settings) -> None:
    """Raise TooEarly while the gate would have too few ratings to judge a first version by."""
    from pipelines.data.batches import list_batches
    from pipelines.release import world

    if world.registry(config).versions():
        return
    ratings = sum(batch.info().counts["rating"] for batch in list_batches(config.batches_dir))
    if int(ratings * config.holdout_share) < config.min_holdout:
        raise TooEarly(
            f"{ratings} ratings have come so far; a first version takes "
            f"{math.ceil(config.min_holdout / config.holdout_share)}, so that {config.min_holdout} can be "
            "held out to judge it by (MARQUEE_MIN_HOLDOUT, MARQUEE_HOLDOUT_SHARE)"
        )


def _collected(config: Settings, announce: Announce, show: Show, *, patience_s: float) -> "Collected":
    from pipelines.data import collect as room

    with closing(source_of(config)) as source, show("collect", "lines") as progress:
        return room.collect(
            source,
            config.batches_dir,
            batch_lines=config.batch_lines,
            processes=config.collect_processes,
            patience_s=patience_s,
            announce=announce,
            progress=progress,
        )


def validate(config: Settings, *, run_id: str, announce: Announce, show: Show = logged) -> dict[str, Any]:
    """Check what no version was trained on yet, and note down the batches that this run is about.

    Raises:
        Refused: a critical expectation failed; the alert is out.
    """
    from pipelines.checks import validate as room
    from pipelines.data import quarantine
    from pipelines.data.batches import list_batches

    path = run_dir(config, run_id) / "report.json"
    entries = quarantine.read(config.batches_dir)
    names = [
        batch.name for batch in list_batches(config.batches_dir) if not quarantine.wholly(batch, entries)
    ]
    new = [name for name in untrained(config) if name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    batches_path(config, run_id).write_text(json.dumps(names, indent=2) + "\n")
    if not new:
        log.info("no batch is new; whole batches have gone into quarantine since the newest version")
        return {"report": "", "rows": {}, "warnings": [], "not_looked_at": []}
    with show("validate", "checks") as progress:
        report = room.validate(
            config.batches_dir,
            new,
            SUITES_DIR,
            path,
            now=datetime.now(UTC),
            reference=reference(config),
            progress=progress,
        )
    if not report.success:
        failed = report.failed_lines("critical")
        announce(alerts.data_refused(failed, str(path)))
        raise Refused(f"data refused: {'; '.join(failed)}; see {path}")
    warnings, silent = report.failed_lines("warning"), report.silent_lines()
    for line in warnings:
        log.warning("%s", line)
    for line in silent:
        log.info("%s", line)
    return {"report": str(path), "rows": report.rows, "warnings": warnings, "not_looked_at": silent}


def train(config: Settings, *, run_id: str, show: Show = logged) -> dict[str, Any]:
    """Judge the recipe on the newest ratings, then fit it on all batches; returns the figures.

    All that were there when the run validated: what came since is unchecked, and the next training's.

    Raises:
        DataError: somebody changed the quarantine while the batches were read.
    """
    from pipelines.checks.profile import describe
    from pipelines.data import batches, quarantine
    from pipelines.model import train as room

    names = json.loads(batches_path(config, run_id).read_text())
    out = quarantine.read(config.batches_dir)
    ratings = batches.read_ratings(config.batches_dir, names)
    viewings = batches.read_viewings(config.batches_dir, names)
    profile = describe(config.batches_dir, names).as_json()
    if quarantine.read(config.batches_dir) != out:
        raise DataError(
            f"the quarantine of {config.batches_dir} changed while its batches were read; run this step again"
        )
    forget_models(config, keep=KEEP_MODELS - 1)
    with show("train", "epochs") as progress:
        meta = room.evaluate_and_train(
            ratings,
            viewings,
            run_dir(config, run_id) / "model",
            config=train_config(config),
            holdout_share=config.holdout_share,
            scale=STARS,
            serving=serving_model(config),
            provenance={
                "run_id": run_id,
                "code": code_version(),
                "profile": profile,
                **_data(config, names, out),
            },
            progress=progress,
        )
    return dict(meta["metrics"])


def forget_models(config: Settings, *, keep: int) -> None:
    """Delete the models of all runs but those that were the newest to leave one."""
    models = sorted((config.var_dir / "runs").glob("*/model"), key=lambda model: model.stat().st_mtime_ns)
    for model in models[: max(0, len(models) - keep)]:
        log.info("the model of %s goes: newer runs have left %d", model.parent.name, keep)
        shutil.rmtree(model)


def trained(config: Settings, *, run_id: str) -> dict[str, Any]:
    """Return the figures of the run's training, which another process may have done."""
    from pipelines.model.artifact import read_meta

    return dict(read_meta(run_dir(config, run_id) / "model")["metrics"])


def gate(config: Settings, *, run_id: str, announce: Announce) -> str:
    """Judge the run's evaluation; returns the reason it was accepted for.

    Raises:
        Refused: with the reason; the alert is out.
    """
    from pipelines.model.artifact import read_meta
    from pipelines.model.evaluate import Evaluation
    from pipelines.model.gate import judge

    model_dir = run_dir(config, run_id) / "model"
    verdict = judge(
        Evaluation.of_metrics(read_meta(model_dir)["metrics"]),
        max_rmse=config.max_rmse,
        max_rmse_worse=config.max_rmse_worse,
        min_holdout=config.min_holdout,
        max_ranking_worse=config.max_ranking_worse,
        min_ranked_users=config.min_ranked_users,
    )
    gate_path(config, run_id).write_text(
        json.dumps({"accepted": verdict.accepted, "reason": verdict.reason}, indent=2) + "\n"
    )
    if not verdict.accepted:
        announce(alerts.model_refused(verdict.headline, verdict.reason, f"{model_dir}/model.json"))
        raise Refused(verdict.reason)
    log.info("accepted: %s", verdict.reason)
    return verdict.reason


def version(config: Settings, *, run_id: str, announce: Announce) -> int:
    """Put data and model of the run into the registry as one version; returns its number."""
    from pipelines.data.ranges import seen
    from pipelines.model.artifact import read_meta
    from pipelines.records.provenance import record_version
    from pipelines.release import world

    model_dir = run_dir(config, run_id) / "model"
    meta = read_meta(model_dir)
    committed = world.registry(config).commit(model_dir, config.batches_dir, meta["metrics"])
    if committed.push_error:
        announce(alerts.registry_not_pushed(committed.number, committed.push_error))
    record_version(
        world.records(config),
        version_number=committed.number,
        data_creation=datetime.fromisoformat(meta["data_creation"]),
        trained_on=datetime.fromisoformat(meta["trained_on"]),
        model_rmse=meta["metrics"]["rmse"],
        git_commit=committed.commit,
        run_id=run_id,
        figures=meta["metrics"],
        gate_reason=json.loads(gate_path(config, run_id).read_text())["reason"],
        offsets=[dict(each) for each in seen(meta["provenance"])],
        code_commit=label(meta["provenance"]["code"]),
    )
    return committed.number


def train_config(config: Settings) -> "TrainConfig":
    """Return the recipe's seed and sizes."""
    from pipelines.model.recipe import TrainConfig

    return TrainConfig(
        seed=config.seed,
        svd_factors=config.svd_factors,
        svd_epochs=config.svd_epochs,
        trending_half_life_days=config.trending_half_life_days,
    )


def source_of(config: Settings) -> "Source":
    """Open the event source that the settings name.

    Raises:
        SettingsError: the file source is chosen without a file.
    """
    from pipelines.events.sources import FileSource, KafkaSource

    if config.event_source is EventSource.KAFKA:
        client = KafkaSource
        if config.kafka_client is KafkaClient.CONFLUENT:
            from pipelines.events.librdkafka import LibrdkafkaSource

            client = LibrdkafkaSource
        return client(
            config.kafka,
            config.kafka_topic,
            partitions=config.kafka_partitions,
            timeout_s=config.kafka_timeout_s,
        )
    if config.event_file is None:
        raise SettingsError("MARQUEE_EVENT_SOURCE=file needs MARQUEE_EVENT_FILE: the log to read")
    return FileSource(config.event_file)


def serving_model(config: Settings) -> "Model | None":
    """Return the model that viewers get now; None when nothing serves that this code could read."""
    from pipelines.model.artifact import FORMAT, load
    from pipelines.release import world

    stable = world.ledger(config).stable()
    if stable is None:
        return None
    registry = world.registry(config)
    written_as = registry.meta(stable, config.models_dir)["format"]
    if written_as != FORMAT:
        log.warning(
            "version %d, which serves, has format %s and this code reads %d: the new model is not compared "
            "with it",
            *(stable, written_as, FORMAT),
        )
        return None
    return load(registry.export(stable, config.models_dir))


def reference(config: Settings) -> "Reference | str":
    """Return what new data are compared with: the data of the serving model, or why there are none."""
    from pipelines.checks.profile import Profile, Reference

    model = serving_model(config)
    if model is None:
        return "no model serves, or none that this code can read, so there is nothing to compare with"
    kept = model.meta.get("provenance", {}).get("profile", {})
    try:
        profile = Profile.of_json(kept)
    except DataError as error:
        return f"version {model.version}, which serves, has no profile of its data that can be read: {error}"
    return Reference(model.version or 0, profile, model.knows, model.knows_movies)


def trained_up_to(config: Settings) -> Mapping[int, int]:
    """Return for each partition the offset after the data of the model that viewers get now.

    Empty when nothing serves, or when database, registry or stream cannot say.
    """
    from pipelines.data.ranges import following, ranges
    from pipelines.release import world

    try:
        stable = world.ledger(config).stable()
        meta = world.registry(config).meta(stable, config.models_dir) if stable else {}
        generation = _generation(config) if stable else None
    except MarqueeError as error:
        log.warning("what the serving model was trained on is not known: %s", error)
        return {}
    covered = ranges(meta.get("provenance", {}).get("batches", []))
    return following(covered, source_of(config).name, generation) if generation else {}


def _generation(config: Settings) -> int | None:
    """Return which generation of its name the stream is; None: nothing was collected from it.

    A log that was collected under the topic's name has a generation of its own, too.
    """
    from pipelines.data.batches import list_batches

    source = source_of(config)
    try:
        identity = source.identity
    finally:
        source.close()
    one_each = {
        batch.generation: batch for batch in list_batches(config.batches_dir) if batch.topic == source.name
    }
    alike = [generation for generation, batch in one_each.items() if batch.info().identity == identity]
    return max(alike, default=None)


def untrained(config: Settings) -> list[str]:
    """Return the names of the collected batches that no version of today's format was trained on.

    Of a batch in which something else is in quarantine now, none was. One that is wholly out is not named.
    """
    from pipelines.data import quarantine
    from pipelines.data.batches import list_batches

    trained, now = _trained(config), quarantine.read(config.batches_dir)
    left = {
        batch.name: quarantine.of(batch, now)
        for batch in list_batches(config.batches_dir)
        if not quarantine.wholly(batch, now)
    }
    return [name for name, out in left.items() if trained.get(name) != out]


def emptied(config: Settings) -> list[str]:
    """Return the names of the batches that the newest version was trained on and that are wholly out now."""
    from pipelines.data import quarantine
    from pipelines.data.batches import parse_name

    now = quarantine.read(config.batches_dir)
    return [
        name
        for name, out in _trained(config).items()
        if (batch := parse_name(name)) and quarantine.wholly(batch, now) and quarantine.of(batch, now) != out
    ]


def _trained(config: Settings) -> dict[str, list[tuple[int, int]]]:
    """Return what was out of each batch of the newest version when it was trained; other format: nothing."""
    from pipelines.data import quarantine
    from pipelines.data.batches import parse_name
    from pipelines.model.artifact import FORMAT
    from pipelines.release import world

    registry = world.registry(config)
    numbers = [info.number for info in registry.versions()]
    meta = registry.meta(max(numbers), config.models_dir) if numbers else {}
    # Replicas cannot read it: without a new event, too, there is a version to be made.
    if meta.get("format") != FORMAT:
        return {}
    then = [quarantine.Quarantined.of_json(each) for each in meta["provenance"].get("quarantined", [])]
    batches = {name: parse_name(name) for name in meta["provenance"]["batches"]}
    return {name: quarantine.of(batch, then) for name, batch in batches.items() if batch}


def _data(config: Settings, names: list[str], out: "Sequence[Quarantined]") -> dict[str, Any]:
    """Return what a version keeps of its data: batches, what was out of the collected ones, what was lost."""
    from pipelines.data.batches import list_batches
    from pipelines.data.quarantine import overlaps
    from pipelines.data.ranges import lost

    collected = list_batches(config.batches_dir)
    touched = [entry for entry in out if any(overlaps(entry, batch) for batch in collected)]
    return {
        "batches": names,
        "quarantined": [entry.as_json() for entry in touched],
        "lost": lost(collected),
    }


def run_dir(config: Settings, run_id: str) -> Path:
    """Return the folder of what one run makes, named after it as far as a file system takes that."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", run_id).lstrip(".") or "run"
    return config.var_dir / "runs" / name


def batches_path(config: Settings, run_id: str) -> Path:
    """Return the file that names the batches of a run, as JSON: what was there when it validated."""
    return run_dir(config, run_id) / "batches.json"


def gate_path(config: Settings, run_id: str) -> Path:
    """Return the file in which the gate leaves its verdict for the step that records it."""
    return run_dir(config, run_id) / "gate.json"
