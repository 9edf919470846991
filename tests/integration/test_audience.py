"""The audience against a real broker."""

import threading

import pytest
from kafka import KafkaConsumer, TopicPartition

from pipelines.errors import StackError
from pipelines.local.audience import sinks
from pipelines.local.audience.sinks import KafkaSink


def stored(servers, topic):
    tp = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, group_id=None) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        end, values = consumer.end_offsets([tp])[tp], []
        while len(values) < end:
            values += [record.value.decode() for record in consumer.poll(timeout_ms=1_000).get(tp, [])]
    return values


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(sinks, "KAFKA_PATIENCE_S", 2.0)


def test_lines_arrive_in_order(kafka):
    kafka.create_topic("audience-order")
    sink = KafkaSink(kafka.servers, "audience-order")
    lines = [f"line {i}" for i in range(5_000)]
    assert sink.write(lines[:2_000]) == 2_000
    assert sink.write(lines[2_000:]) == 3_000
    sink.close()
    assert stored(kafka.servers, "audience-order") == lines


def test_what_an_outage_cost_is_counted_and_the_rest_arrives_once(kafka, impatient):
    kafka.create_topic("audience-outage")
    sink = KafkaSink(kafka.servers, "audience-outage")
    assert sink.write(["before"]) == 1
    kafka.stop()
    assert sink.write(["during"]) == 0
    kafka.start()
    after = [f"after {i}" for i in range(100)]
    assert sink.write(after) == len(after)
    sink.close()
    assert stored(kafka.servers, "audience-outage") == ["before", *after]


def test_a_topic_that_is_made_late_is_found(kafka):
    sink = KafkaSink(kafka.servers, "audience-late")
    with pytest.raises(StackError, match="does not take events for audience-late"):
        sink.write(["too early", "and this"])
    kafka.create_topic("audience-late")
    assert sink.write(["in time"]) == 1
    sink.close()
    assert stored(kafka.servers, "audience-late") == ["in time"]


def test_closing_does_not_wait_for_a_broker_that_is_away(kafka, impatient):
    kafka.create_topic("audience-close")
    sink = KafkaSink(kafka.servers, "audience-close")
    sink.write(["before"])
    kafka.stop()
    closing = threading.Thread(target=sink.close)
    closing.start()
    closing.join(timeout=10)
    assert not closing.is_alive()
    kafka.start()
