"""Real services for the integration tests: started once, waited for with a bound, gone at the end."""

from collections.abc import Iterator

import docker
import pytest
from sqlalchemy import create_engine, text

from pipelines.local import broker
from tests.broker import TOOLS_DIR, Kafka
from tests.engine import NoEngine, engine
from tests.mariadb import MariaDB, NoMariaDB
from tests.ports import free_ports


def pytest_configure(config: pytest.Config) -> None:
    # While a broker is away, kafka-python 3.0 leaves every socket that never got a connection
    # (its own address is still 0.0.0.0) to the garbage collector.
    never_connected = "unclosed <socket.socket fd=.* laddr=.'0.0.0.0'"
    config.addinivalue_line("filterwarnings", f"ignore:{never_connected}:ResourceWarning")


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


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.APIClient]:
    """This machine's Docker engine."""
    try:
        client = engine()
    except NoEngine as reason:
        pytest.skip(str(reason))
    yield client
    client.close()
