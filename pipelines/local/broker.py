"""A real Kafka broker on this machine: one KRaft node on the loopback interface, run by ``java`` directly.

The jars come from ``KAFKA_HOME`` or, named by ``docker/kafka/pom.xml``, from Maven. A machine
that can have neither is told why in one line (`Unavailable`) and does without a broker.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from pipelines.errors import StackError
from pipelines.local.parts import move_into_place, tail
from pipelines.settings import PROJECT_DIR

TEMPLATES_DIR = PROJECT_DIR / "docker" / "kafka"
POM = TEMPLATES_DIR / "pom.xml"
JAVA_AT_LEAST = 17
MAVEN_TIMEOUT_S = 600.0
FORMAT_TIMEOUT_S = 120.0

_COPY_JARS = ("-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime")

# Java 17 takes its character set from the locale.
_JAVA_ENV = {"LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There can be no broker on this machine."""

    reason: str
    """One line: what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its argument list (no shell) and what it needs in its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


def find_home(tools_dir: Path) -> Path | Unavailable:
    """Return a folder whose ``libs`` holds the jars of a broker, fetching them once if need be.

    Args:
        tools_dir: jars from Maven are kept in ``tools_dir/kafka-<version>`` and found again.
    """
    java = _java()
    if isinstance(java, Unavailable):
        return java
    chosen = os.environ.get("KAFKA_HOME", "")
    if chosen:
        return _validated(Path(chosen).absolute())
    home = tools_dir.absolute() / f"kafka-{_kafka_version()}"
    return home if _holds_broker(home) else _from_maven(home)


def prepare(home: Path, data_dir: Path, port: int, controller_port: int) -> None:
    """Write the configuration into ``data_dir`` and format the storage there, unless it is formatted.

    May be repeated, with other ports too; what was stored stays.

    Raises:
        StackError: Kafka refused to format the storage.
    """
    data_dir = data_dir.absolute()
    log_dir = data_dir / "data"
    log_dir.mkdir(parents=True, exist_ok=True)
    values = {"port": port, "controller_port": controller_port, "data_dir": data_dir, "log_dir": log_dir}
    for name in ("server.properties", "log4j2.properties"):
        template = Template((TEMPLATES_DIR / f"{name}.template").read_text())
        (data_dir / name).write_text(template.substitute(values))
    if not (log_dir / "meta.properties").exists():
        _format(home, data_dir)


def command(home: Path, data_dir: Path, heap: str = "512m") -> Command:
    """Return what runs the broker that `prepare` has set up in ``data_dir``, in the foreground.

    Args:
        home: as found by `find_home`.
        data_dir: as given to `prepare`.
        heap: Java's largest heap, in Java's notation.
    """
    java = _java_argv(home, data_dir, heap)
    return Command((*java, "kafka.Kafka", str(data_dir / "server.properties")), dict(_JAVA_ENV))


def wait_ready(servers: str, timeout_s: float) -> None:
    """Return when a broker at ``servers`` (host:port, comma-separated) answers.

    Raises:
        StackError: none did within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    _wait_listening(servers, deadline)
    _admin(servers, deadline).close()


def create_topic(servers: str, topic: str, partitions: int, timeout_s: float) -> None:
    """Create ``topic`` and return when every partition has a leader; an existing topic is left as it is.

    Raises:
        StackError: no broker answered within ``timeout_s``, or it refused.
    """
    deadline = time.monotonic() + timeout_s
    _wait_listening(servers, deadline)
    admin = _admin(servers, deadline)
    try:
        with suppress(TopicAlreadyExistsError):
            options = {"num_partitions": partitions, "replication_factor": 1}
            admin.create_topics({topic: options}, timeout_ms=_left_ms(deadline))
        admin.wait_for_topics([topic], timeout_ms=_left_ms(deadline))
    except KafkaError as error:
        raise StackError(f"Kafka at {servers} did not create topic {topic}: {error}") from error
    finally:
        admin.close()


def _java() -> Path | Unavailable:
    """Return the Java program, unless there is none that is new enough."""
    java_home = os.environ.get("JAVA_HOME", "")
    found = shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else shutil.which("java")
    wanted = (
        f"Kafka needs Java {JAVA_AT_LEAST} or newer, for example `apt-get install openjdk-17-jre-headless`"
    )
    if found is None:
        return Unavailable(f"no java{f' in JAVA_HOME={java_home}' if java_home else ' on PATH'}; {wanted}")
    printed = _output([found, "-version"], 60.0)
    version = re.search(r'version "(?:1\.)?(\d+)', printed)
    if version is None or int(version[1]) < JAVA_AT_LEAST:
        seen = f"version {version[1]}" if version else f"of unknown version ({tail(printed, 1)})"
        return Unavailable(f"{found} is {seen}; {wanted}")
    return Path(found)


def _validated(home: Path) -> Path | Unavailable:
    if _holds_broker(home):
        return home
    return Unavailable(
        f"KAFKA_HOME={home} has no libs/kafka_2.*.jar: "
        "point it at an unpacked Kafka release, or unset it to use Maven"
    )


def _holds_broker(home: Path) -> bool:
    return any((home / "libs").glob("kafka_2.*.jar"))


def _kafka_version() -> str:
    version = re.search(r"<kafka\.version>(.+?)<", POM.read_text())
    if version is None:
        raise StackError(f"{POM} has no <kafka.version>: put the version of Kafka there, for example 4.1.0")
    return version[1]


def _from_maven(home: Path) -> Path | Unavailable:
    """Copy the jars of ``POM`` into ``home/libs``; ``home`` appears complete or not at all."""
    maven = shutil.which("mvn")
    if maven is None:
        return Unavailable(
            "no Kafka: KAFKA_HOME is not set and there is no mvn to fetch it; "
            "set KAFKA_HOME to an unpacked Kafka release, or `apt-get install maven`"
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kafka-", dir=home.parent) as scratch:
        fetched = Path(scratch) / "home"
        printed = _output([maven, *_COPY_JARS, f"-DoutputDirectory={fetched / 'libs'}"], MAVEN_TIMEOUT_S)
        if not _holds_broker(fetched):
            return Unavailable(
                f"no Kafka: Maven could not fetch it ({_first_error(printed)}); set KAFKA_HOME instead"
            )
        move_into_place(fetched, home)
    return home


def _first_error(printed: str) -> str:
    lines = (
        [line for line in printed.splitlines() if "ERROR" in line]
        or printed.splitlines()
        or ["it printed nothing"]
    )
    return lines[0].strip()[:300]


def _format(home: Path, data_dir: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    storage_tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster_id}")
    argv = [
        *_java_argv(home, data_dir, "256m"),
        *storage_tool,
        "--config",
        str(data_dir / "server.properties"),
    ]
    printed = _output(argv, FORMAT_TIMEOUT_S)
    if not (data_dir / "data" / "meta.properties").exists():
        raise StackError(
            f"Kafka did not format its storage in {data_dir}:\n{tail(printed)}\nis the disk full?"
        )


def _java_argv(home: Path, data_dir: Path, heap: str) -> tuple[str, ...]:
    java = _java()
    if isinstance(java, Unavailable):
        raise StackError(java.reason)
    log4j = f"-Dlog4j2.configurationFile={data_dir / 'log4j2.properties'}"
    return (str(java), f"-Xmx{heap}", "-XX:+UseSerialGC", log4j, "-cp", str(home / "libs" / "*"))


def _output(argv: Sequence[str], timeout_s: float) -> str:
    """Return everything that a program printed, whether it succeeded or not; callers look at what it made."""
    environment = os.environ | _JAVA_ENV
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"ERROR {argv[0]} did not end within {timeout_s:g} s"
    except OSError as error:
        return f"ERROR {argv[0]}: {error}"
    return done.stdout + done.stderr


def _wait_listening(servers: str, deadline: float) -> None:
    """Wait for an open port: a Kafka client that fails to start would leave threads and sockets behind."""
    host, _, port = servers.split(",")[0].strip().rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise StackError(
                    f"no Kafka at {servers}: {error}; is the broker running? See its kafka.log"
                ) from error
        time.sleep(0.1)


def _admin(servers: str, deadline: float) -> KafkaAdminClient:
    try:
        return KafkaAdminClient(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=_left_ms(deadline),
            reconnect_backoff_max_ms=500,
        )
    except KafkaError as error:
        raise StackError(
            f"Kafka at {servers} listens but does not answer: {error}; see its kafka.log"
        ) from error


def _left_ms(deadline: float) -> int:
    return max(1_000, int((deadline - time.monotonic()) * 1_000))
