"""A full disk under the spool costs receipts and never answers, and every lost receipt is counted twice:
at once in the metric, and in the records when the disk takes receipts again."""

import resource
from datetime import UTC, datetime
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from pipelines.records.database import connect
from pipelines.records.tables import lost_receipts
from tests.stage import SqliteFile, Stage, Viewers, wait_until

FULL, ROOM = 2_000, resource.RLIM_INFINITY
"""Bytes that a worker may write into a file: the kernel refuses the rest as a full disk does."""


def limit(stage: Stage, size: int) -> None:
    for worker in stage.workers():
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (size, ROOM))


def counted_by_the_metric(stage: Stage) -> float:
    return sum(
        sample.value
        for url in stage.replica_urls
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        for sample in family.samples
        if sample.name == "marquee_receipts_lost_total"
    )


def test_full_disk_costs_receipts_not_answers_and_each_is_counted(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    stage = Stage(tmp_path, SqliteFile(tmp_path / "records.db"), workers=1)
    engine = connect(stage.database.url)

    def told_by_the_records() -> int:
        with engine.connect() as connection:
            return connection.scalar(select(func.coalesce(func.sum(lost_receipts.c.count), 0)))

    with stage.running():
        with Viewers(stage.port, per_second=100) as viewers:
            viewers.wait_for(100)
            limit(stage, FULL)
            viewers.wait_for(100)
            limit(stage, ROOM)
            viewers.wait_for(100)
            counted = counted_by_the_metric(stage)
            wait_until(lambda: told_by_the_records() == counted, "the records tell of each loss")
        stage.ship_everything()

    engine.dispose()
    assert viewers.failures == 0
    with stage.receipts() as receipts:
        unknown = [answer for answer in viewers.answers if not receipts.find(answer.request_id)]
        losses = receipts.lost_between(began, datetime.now(UTC))
    assert 0 < len(unknown) == counted == sum(loss.count for loss in losses)
