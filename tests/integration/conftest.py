"""Real services for the integration tests: started once, waited for with a bound, gone at the end."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from sqlalchemy import create_engine, text

from pipelines.local import broker
from pipelines.settings import PROJECT_DIR
from tests.mariadb import MariaDB, NoMariaDB
from tests.ports import free_ports

TOOLS_DIR = PROJECT_DIR / "var" / "tools"
READY_TIMEOUT_S = 60.0


def pytest_configure(config: pytest.Config) -> None:
    # While a broker is away, kafka-python 3.0 leaves every socket that never got a connection
    # (its own address is still 0.0.0.0) to the garbage collector.
    never_connected = "unclosed <socket.socket fd=.* laddr=.'0.0.0.0'"
    config.addinivalue_line("filterwarnings", f"ignore:{never_connected}:ResourceWarning")


@dataclass
class Kafka:
    """A broker of the tests' own, which may be stopped and started again on the same data."""

    home: Path
    data_dir: Path
    port: int
    controller_port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        broker.prepare(self.home, self.data_dir, self.port, self.controller_port)
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

    def produce(self, topic: str, lines: Sequence[str | bytes], partition: int = 0) -> None:
        """Append the lines in this order and return when the broker has stored them."""
        with KafkaProducer(bootstrap_servers=self.servers) as producer:
            values = (line.encode() if isinstance(line, str) else line for line in lines)
            stored = [producer.send(topic, value, partition=partition) for value in values]
            producer.flush()
            for each in stored:
                each.get(timeout=0)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    home = broker.find_home(TOOLS_DIR)
    if isinstance(home, broker.Unavailable):
        pytest.skip(home.reason)
    port, controller_port = free_ports(2)
    service = Kafka(home, tmp_path_factory.mktemp("kafka"), port, controller_port)
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SQLAlchemy address of a MariaDB of the tests' own, without a database name."""
    try:
        server = MariaDB(tmp_path_factory.mktemp("mariadb"))
    except NoMariaDB as reason:
        pytest.skip(str(reason))
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def mysql_url(mariadb: str) -> Iterator[str]:
    """Address of an empty database, gone after the test."""
    server = create_engine(mariadb)
    with server.begin() as connection:
        connection.execute(text("create database records character set utf8mb4"))
    yield f"{mariadb}/records"
    with server.begin() as connection:
        connection.execute(text("drop database records"))
    server.dispose()
