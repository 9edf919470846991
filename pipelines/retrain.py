"""The steps of a training, wired to the settings: what a task of the DAG and a shell command both call.

What one run makes lies in ``runs/<run_id>/`` until the version step puts it into the registry, so that
each step can be killed and run again.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import alerts
from pipelines.alerts import Alert
from pipelines.data import batches
from pipelines.data.collect import Progress
from pipelines.data.collect import collect as collect_events
from pipelines.data.validate import validate as validate_batches
from pipelines.errors import ModelError, NothingNew, Refused, SettingsError
from pipelines.events.sources import FileSource, KafkaSource, Source
from pipelines.model.artifact import Model, load
from pipelines.model.evaluate import Evaluation, evaluate
from pipelines.model.gate import judge
from pipelines.model.train import TrainConfig
from pipelines.model.train import train as train_model
from pipelines.records.database import connect
from pipelines.records.provenance import record_version
from pipelines.release import world
from pipelines.settings import PROJECT_DIR, EventSource, Settings

log = logging.getLogger(__name__)

Announce = Callable[[Alert], None]
SUITES_DIR = PROJECT_DIR / "expectations"


def source_of(config: Settings) -> Source:
    """Open the event source that the settings name."""
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


def collect(config: Settings, *, announce: Announce, progress: Progress | None = None) -> dict[str, Any]:
    """Collect everything since the last collected offset.

    Raises:
        NothingNew: no event came, and no collected batch waits for its training.
    """
    source = source_of(config)
    try:
        collected = collect_events(
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


def untrained(config: Settings) -> list[str]:
    """Return the names of the collected batches that the newest version was not trained on."""
    trained = set(_newest_metrics(config).get("provenance", {}).get("batches", []))
    return [batch.name for batch in batches.list_batches(config.batches_dir) if batch.name not in trained]


def validate(config: Settings, *, run_id: str, announce: Announce) -> dict[str, Any]:
    """Check what no version was trained on yet.

    Raises:
        Refused: a critical expectation failed; the alert is out.
    """
    path = run_dir(config, run_id) / "report.json"
    report = validate_batches(config.batches_dir, untrained(config), SUITES_DIR, path, now=datetime.now(UTC))
    failed = report.failed_lines()
    if not report.success:
        announce(alerts.data_refused(failed, str(path)))
        raise Refused(f"{len(failed)} data check(s) failed: {'; '.join(failed)}; see {path}")
    return {"report": str(path), "rows": report.rows, "warnings": failed}


def train(config: Settings, *, run_id: str) -> dict[str, Any]:
    """Judge the recipe on the newest ratings, then fit it on everything; returns the figures."""
    names = [batch.name for batch in batches.list_batches(config.batches_dir)]
    ratings = batches.read_ratings(config.batches_dir, names)
    viewings = batches.read_viewings(config.batches_dir, names)
    recipe = train_config(config)
    evaluation = evaluate(
        ratings, viewings, config=recipe, holdout_share=config.holdout_share, serving=serving_model(config)
    )
    provenance = {"batches": names, "run_id": run_id}
    train_model(
        ratings,
        viewings,
        run_dir(config, run_id) / "model",
        config=recipe,
        scale=(1.0, 5.0),
        judge=evaluation,
        provenance=provenance,
    )
    _write_json(run_dir(config, run_id) / "evaluation.json", asdict(evaluation))
    return asdict(evaluation)


def gate(config: Settings, *, run_id: str, announce: Announce) -> str:
    """Judge the run's evaluation; returns the reason it was accepted for.

    Raises:
        Refused: with the reason; the alert is out.
    """
    path = run_dir(config, run_id) / "evaluation.json"
    verdict = judge(
        Evaluation(**_read_json(path)),
        max_rmse=config.max_rmse,
        max_rmse_worse=config.max_rmse_worse,
        min_holdout=config.min_holdout,
    )
    if not verdict.accepted:
        announce(alerts.model_refused(verdict.reason, verdict.rmse, verdict.limit, str(path)))
        raise Refused(verdict.reason)
    log.info("accepted: %s", verdict.reason)
    return verdict.reason


def version(config: Settings, *, run_id: str, announce: Announce) -> int:
    """Put data and model of the run into the registry as one version; returns its number."""
    folder = run_dir(config, run_id)
    meta = load(folder / "model").meta
    ledger = world.ledger(config)  # before the commit: a version is never left without its row for long
    committed = world.registry(config).commit(folder / "model", config.batches_dir, meta)
    if committed.push_error:
        announce(alerts.registry_not_pushed(committed.number, committed.push_error))
    record_version(
        connect(config.records),
        version_number=committed.number,
        data_creation=datetime.fromisoformat(meta["data_creation"]),
        trained_on=datetime.fromisoformat(meta["trained_on"]),
        model_rmse=meta["metrics"]["rmse"],
        git_commit=committed.commit,
        run_id=run_id,
    )
    return committed.number


def run(config: Settings, *, run_id: str, announce: Announce, progress: Progress | None = None) -> int:
    """Run all steps in order, as the DAG does; returns the number of the new version."""
    collect(config, announce=announce, progress=progress)
    validate(config, run_id=run_id, announce=announce)
    train(config, run_id=run_id)
    gate(config, run_id=run_id, announce=announce)
    return version(config, run_id=run_id, announce=announce)


def run_dir(config: Settings, run_id: str) -> Path:
    """Return the folder of what one run makes."""
    return config.var_dir / "runs" / run_id
