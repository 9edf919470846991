"""The steps of a training, wired to the settings: what a task of the DAG and a shell command both call.

What one run makes lies in ``runs/<run_id>/`` until the version step puts it into the registry, so that
each step can be killed and run again.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import alerts
from pipelines.alerts import Announce
from pipelines.code import code_version, label
from pipelines.errors import MarqueeError, NothingNew, Refused, SettingsError
from pipelines.settings import PROJECT_DIR, EventSource, Settings

if TYPE_CHECKING:
    from pipelines.events.sources import Source
    from pipelines.model.recipe import TrainConfig
    from pipelines.model.recommender import Model

# Rooms are imported inside the steps: each step is a process of its own under Airflow, and one that
# collects need not wait for scikit-surprise, nor one that judges for Great Expectations.

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
SUITES_DIR = PROJECT_DIR / "expectations"
STARS = (1.0, 5.0)
"""Lowest and highest rating of the stream."""


def run(config: Settings, *, run_id: str, announce: Announce, progress: Progress | None = None) -> int:
    """Run all steps in order, as the DAG does; returns the number of the new version."""
    collect(config, announce=announce, progress=progress)
    validate(config, run_id=run_id, announce=announce)
    train(config, run_id=run_id)
    gate(config, run_id=run_id, announce=announce)
    return version(config, run_id=run_id, announce=announce)


def collect(config: Settings, *, announce: Announce, progress: Progress | None = None) -> dict[str, Any]:
    """Collect everything since the last collected offset.

    Raises:
        NothingNew: no event came, and no collected batch waits for its training.
    """
    from pipelines.data import collect as room

    source = source_of(config)
    try:
        collected = room.collect(
            source, config.batches_dir, batch_lines=config.batch_lines, progress=progress
        )
    finally:
        source.close()
    if collected.notes:
        announce(alerts.offsets_gone_back(collected.notes))
    waiting = untrained(config)
    if not waiting:
        raise NothingNew(
            f"no event has come to {source.name!r} since the last training; there is nothing to do"
        )
    return {**collected.as_json(), "untrained": waiting}


def validate(config: Settings, *, run_id: str, announce: Announce) -> dict[str, Any]:
    """Check what no version was trained on yet.

    Raises:
        Refused: a critical expectation failed; the alert is out.
    """
    from pipelines.data import validate as room

    path = run_dir(config, run_id) / "report.json"
    report = room.validate(config.batches_dir, untrained(config), SUITES_DIR, path, now=datetime.now(UTC))
    if not report.success:
        failed = report.failed_lines("critical")
        announce(alerts.data_refused(failed, str(path)))
        raise Refused(f"data refused: {'; '.join(failed)}; see {path}")
    return {"report": str(path), "rows": report.rows, "warnings": report.failed_lines("warning")}


def train(config: Settings, *, run_id: str) -> dict[str, Any]:
    """Judge the recipe on the newest ratings, then fit it on all batches; returns the figures."""
    from pipelines.data import batches
    from pipelines.model import train as room

    names = [batch.name for batch in batches.list_batches(config.batches_dir)]
    meta = room.evaluate_and_train(
        batches.read_ratings(config.batches_dir, names),
        batches.read_viewings(config.batches_dir, names),
        run_dir(config, run_id) / "model",
        config=train_config(config),
        holdout_share=config.holdout_share,
        scale=STARS,
        serving=serving_model(config),
        provenance={"batches": names, "run_id": run_id, "code": code_version()},
    )
    return dict(meta["metrics"])


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
    from pipelines.data.ranges import ranges
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
        offsets=[dict(each) for each in ranges(meta["provenance"]["batches"])],
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
        return KafkaSource(
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


def trained_up_to(config: Settings) -> Mapping[int, int]:
    """Return for each partition the offset after the data of the model that viewers get now.

    Empty when nothing serves, or when database or registry cannot say.
    """
    from pipelines.data.ranges import following, ranges
    from pipelines.release import world

    try:
        stable = world.ledger(config).stable()
        meta = world.registry(config).meta(stable, config.models_dir) if stable else {}
    except MarqueeError as error:
        log.warning("what the serving model was trained on is not known: %s", error)
        meta = {}
    batches = meta.get("provenance", {}).get("batches", [])
    return following(ranges(batches), source_of(config).name)


def untrained(config: Settings) -> list[str]:
    """Return the names of the collected batches that no version of today's format was trained on."""
    from pipelines.data.batches import list_batches

    trained = set(_newest_trained_on(config))
    return [batch.name for batch in list_batches(config.batches_dir) if batch.name not in trained]


def _newest_trained_on(config: Settings) -> list[str]:
    """Return the batches of the newest version; one of another format counts for none."""
    from pipelines.model.artifact import FORMAT
    from pipelines.release import world

    registry = world.registry(config)
    numbers = [info.number for info in registry.versions()]
    meta = registry.meta(max(numbers), config.models_dir) if numbers else {}
    # Replicas cannot read it: without a new event, too, there is a version to be made.
    return list(meta["provenance"]["batches"]) if meta.get("format") == FORMAT else []


def run_dir(config: Settings, run_id: str) -> Path:
    """Return the folder of what one run makes, named after it as far as a file system takes that."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", run_id).lstrip(".") or "run"
    return config.var_dir / "runs" / name


def gate_path(config: Settings, run_id: str) -> Path:
    """Return the file in which the gate leaves its verdict for the step that records it."""
    return run_dir(config, run_id) / "gate.json"
