"""The broker of the one-machine stack, for real."""

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from pipelines.errors import StackError
from pipelines.local import broker


def stored(servers, topic, partition=0):
    """All values of one partition, from the first to the last that is there now."""
    tp = TopicPartition(topic, partition)
    with KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, group_id=None) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        end, values = consumer.end_offsets([tp])[tp], []
        while len(values) < end:
            values += [record.value for record in consumer.poll(timeout_ms=1_000).get(tp, [])]
    return values


def test_lines_come_back_in_order_and_byte_for_byte(kafka):
    kafka.create_topic("echo")
    lines = ["2022-11-14T12:24,1,GET /rate/up+2009=5", b"not \xff text", ""]
    kafka.produce("echo", lines)
    assert stored(kafka.servers, "echo") == [b"2022-11-14T12:24,1,GET /rate/up+2009=5", b"not \xff text", b""]


def test_partitions_are_kept_apart(kafka):
    kafka.create_topic("two", partitions=2)
    kafka.produce("two", ["left"], partition=0)
    kafka.produce("two", ["right"], partition=1)
    assert [stored(kafka.servers, "two", partition) for partition in (0, 1)] == [[b"left"], [b"right"]]


def test_creating_a_topic_again_keeps_what_it_holds(kafka):
    kafka.create_topic("again")
    kafka.produce("again", ["first"])
    kafka.create_topic("again")
    assert stored(kafka.servers, "again") == [b"first"]


def test_a_broker_that_starts_again_still_has_its_data(kafka):
    kafka.create_topic("kept")
    kafka.produce("kept", ["before"])
    kafka.stop()
    with pytest.raises(StackError, match=f"no Kafka at {kafka.servers}.*is the broker running"):
        broker.wait_ready(kafka.servers, 0.1)
    kafka.start()
    kafka.produce("kept", ["after"])
    assert stored(kafka.servers, "kept") == [b"before", b"after"]


def test_a_topic_is_not_created_by_asking_for_it(kafka):
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        admin.describe_topics(["nobody-made-me"])
        assert "nobody-made-me" not in admin.list_topics()


def test_a_deleted_topic_that_is_made_again_is_a_new_topic(kafka):
    kafka.create_topic("reborn")
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        first = admin.describe_topics(["reborn"])[0]["topic_id"]
        kafka.delete_topic("reborn")
        kafka.create_topic("reborn")
        assert admin.describe_topics(["reborn"])[0]["topic_id"] != first


def test_a_topic_name_that_kafka_refuses_is_an_error_of_the_stack(kafka):
    with pytest.raises(StackError, match=r"did not create topic not/a/name"):
        kafka.create_topic("not/a/name")


def test_the_broker_listens_on_this_machine_only(kafka):
    properties = (kafka.data_dir / "server.properties").read_text().splitlines()
    listeners = next(line for line in properties if line.startswith("listeners="))
    assert listeners.count("//") == listeners.count("//127.0.0.1:") == 2
