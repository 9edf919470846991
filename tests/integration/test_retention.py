"""A broker whose retention really takes lines away, within seconds instead of days."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from pipelines import retrain
from pipelines.alerts import Alert
from pipelines.data.batches import list_batches, read_kind
from pipelines.errors import NothingNew
from pipelines.events.sources import KafkaSource
from pipelines.local import broker
from pipelines.settings import KafkaClient, Settings, read
from tests.broker import TOOLS_DIR, Kafka
from tests.ports import free_ports

WAIT_S = 60.0

# By default a broker looks for old lines every five minutes.
QUICK = "log.retention.check.interval.ms=300\nlog.initial.task.delay.ms=0\n"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    home = broker.find_home(TOOLS_DIR)
    if isinstance(home, broker.Unavailable):
        pytest.skip(home.reason)
    kafka = Kafka(home, tmp_path_factory.mktemp("forgetful"), *free_ports(2), properties=QUICK)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture(params=KafkaClient)
def config(forgetful: Kafka, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    topic = f"short-lived-{request.param}"
    forgetful.create_topic(topic)
    return read(
        _env_file=None,
        var_dir=tmp_path,
        kafka_servers=forgetful.servers,
        kafka_topic=topic,
        kafka_client=request.param,
    )


def keep_for(config: Settings, ms: int) -> None:
    topic = ConfigResource(ConfigResourceType.TOPIC, config.kafka_topic, {"retention.ms": str(ms)})
    with KafkaAdminClient(bootstrap_servers=config.kafka) as admin:
        admin.alter_configs([topic])


def wait_until_all_is_gone(config: Settings) -> None:
    deadline = time.monotonic() + WAIT_S
    with closing(KafkaSource(config.kafka, config.kafka_topic)) as source:
        while (bounds := source.bounds(0))[0] < bounds[1]:
            assert time.monotonic() < deadline, f"the broker still holds {bounds}"
            time.sleep(0.1)


def lines(first: int, end: int) -> list[str]:
    return [f"2022-11-14T12:24,{n + 1},GET /rate/heat+1995={1 + n % 5}" for n in range(first, end)]


def test_what_retention_takes_is_told_once_with_its_range_and_stays_on_record(
    forgetful: Kafka, config: Settings
) -> None:
    told: list[Alert] = []
    forgetful.produce(config.kafka_topic, lines(0, 10))
    assert retrain.collect_new(config, announce=told.append)["lines"] == 10
    forgetful.produce(config.kafka_topic, lines(10, 25))
    keep_for(config, ms=1)
    wait_until_all_is_gone(config)
    for _ in range(2):
        with pytest.raises(NothingNew, match="no event has come"):
            retrain.collect_new(config, announce=told.append)
    keep_for(config, ms=3_600_000)
    forgetful.produce(config.kafka_topic, lines(25, 30))
    collected = retrain.collect_new(config, announce=told.append)

    assert [alert.title for alert in told] == [f"Marquee: up to 15 line(s) of {config.kafka_topic} lost"]
    assert "partition 0: offsets 10 to 24, 15 lines at most" in told[0].body
    assert collected["partitions"]["0"] == {"first_offset": 25, "last_offset": 29, "lines": 5}
    assert [batch.info().lost for batch in list_batches(config.batches_dir)] == [None, (10, 24)]
    users = read_kind(config.batches_dir, "rating")["user_id"].tolist()
    assert users == [n + 1 for n in (*range(10), *range(25, 30))]
