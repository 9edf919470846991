"""Kafka as docker-compose.yaml runs it, on a real Docker engine."""

import subprocess

import pytest

from tests.compose import Compose, wait_until

TOPIC = "movielog4"
LINES = 1_000
READ = 600


@pytest.fixture(scope="module")
def compose(docker_engine, tmp_path_factory):
    stack = Compose("marquee-tests-kafka", tmp_path_factory.mktemp("kafka"))
    try:
        # It waits for the broker's health, as everybody else does.
        stack.run("up", "--detach", "kafka-init")
        yield stack
    finally:
        stack.remove()


def kafka(compose, tool, *arguments, given=""):
    """What a tool of the image says; ``given`` is a command that feeds it."""
    # As small as it is: the broker's own memory is limited.
    command = f"KAFKA_HEAP_OPTS=-Xmx128m /opt/kafka/bin/{tool}.sh --bootstrap-server kafka:9092"
    script = f"{given} {command} {' '.join(arguments)}"
    return compose.run("exec", "-T", "kafka", "sh", "-c", script, check=False).splitlines()


def ends(compose):
    lines = kafka(compose, "kafka-get-offsets", f"--topic={TOPIC}")
    return {int(line.split(":")[1]): int(line.split(":")[2]) for line in lines if line.startswith(TOPIC)}


def read(compose, most):
    """What a group of consumers reads next."""
    options = ("--group=tests", "--from-beginning", f"--max-messages={most}", "--timeout-ms=5000")
    return kafka(compose, "kafka-console-consumer", f"--topic={TOPIC}", *options)


def test_events_and_how_far_they_were_read_survive_a_kill_and_a_new_container(compose):
    wait_until(lambda: len(ends(compose)) == 4, "the topic has its partitions")
    kafka(compose, "kafka-console-producer", f"--topic={TOPIC}", given=f"seq {LINES} |")
    written = ends(compose)
    assert sum(written.values()) == LINES
    first = read(compose, READ)

    compose.kill("kafka")
    compose.run("start", "kafka")
    wait_until(lambda: compose.is_well("kafka"), "it is back")
    assert ends(compose) == written

    compose.run("down", "--timeout", "30")
    compose.run("up", "--detach", "kafka-init")
    assert ends(compose) == written
    rest = read(compose, LINES)
    assert len(rest) == LINES - READ
    assert {*first, *rest} == {str(number) for number in range(1, LINES + 1)}


def test_broker_that_hangs_is_not_healthy(compose):
    """Its port takes connections all the same."""
    assert compose.is_well("kafka")
    broker = compose.containers()["kafka"]["Id"]
    check = compose.containers()["kafka"]["Config"]["Healthcheck"]["Test"][1:]
    # Process 1 is docker-init; the broker is its child.
    subprocess.run(["docker", "exec", broker, "pkill", "-STOP", "java"], check=True)
    hung = subprocess.run(["docker", "exec", broker, *check], capture_output=True, check=False)
    subprocess.run(["docker", "exec", broker, "pkill", "-CONT", "java"], check=True)
    assert hung.returncode != 0
