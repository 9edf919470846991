"""A Kafka broker of the tests' own."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from pipelines.local import broker
from pipelines.settings import PROJECT_DIR

TOOLS_DIR = PROJECT_DIR / "var" / "tools"
READY_TIMEOUT_S = 60.0


@dataclass
class Kafka:
    """A broker of the tests' own, which may be stopped and started again on the same data."""

    home: Path
    data_dir: Path
    port: int
    controller_port: int
    properties: str = ""
    """Lines for the broker's configuration."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        broker.prepare(self.home, self.data_dir, self.port, self.controller_port)
        with (self.data_dir / "server.properties").open("a") as file:
            file.write(self.properties)
        command = broker.command(self.home, self.data_dir)
        self.process = subprocess.Popen(command.argv, env=os.environ | command.env)
        broker.wait_ready(self.servers, READY_TIMEOUT_S)

    def stop(self) -> None:
        """End the broker; does nothing when it is not running."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def create_topic(self, name: str, partitions: int = 1) -> None:
        broker.create_topic(self.servers, name, partitions, READY_TIMEOUT_S)

    def delete_topic(self, name: str) -> None:
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            admin.delete_topics([name])

    def raise_partitions(self, name: str, partitions: int) -> None:
        """Give the topic more partitions; returns when they can be written to."""
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            admin.create_partitions({name: partitions})
        for _ in range(round(READY_TIMEOUT_S * 10)):
            with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
                topic = admin.describe_topics([name])[0]
            if sum(not part["error_code"] for part in topic["partitions"]) == partitions:
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} did not come to have {partitions} partitions: {topic}")

    def forget(self, topic: str, before: int, partition: int = 0) -> None:
        """Let go of the lines before an offset, as retention does."""
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            admin.delete_records({TopicPartition(topic, partition): before})

    def produce(self, topic: str, lines: Sequence[str | bytes], partition: int = 0) -> None:
        """Append the lines in this order and return when the broker has stored them."""
        with KafkaProducer(bootstrap_servers=self.servers) as producer:
            values = (line.encode() if isinstance(line, str) else line for line in lines)
            stored = [producer.send(topic, value, partition=partition) for value in values]
            producer.flush()
            for each in stored:
                each.get(timeout=0)
