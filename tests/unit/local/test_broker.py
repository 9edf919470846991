from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.local import broker
from pipelines.local.broker import Unavailable
from tests.ports import free_ports

JAVA = """
[ "$1" = -version ] && { echo 'openjdk version "17.0.15" 2025-04-15' >&2; exit; }
echo "$@" >> "$(dirname "$0")/java.calls"
while [ "$1" != --config ]; do shift; done
touch "$(dirname "$2")/data/meta.properties"
"""
MAVEN = """
for argument; do
  case $argument in -DoutputDirectory=*) libs=${argument#*=} ;; esac
done
mkdir -p "$libs" && touch "$libs/kafka_2.13-4.1.0.jar"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    return tmp_path / "tools"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    jar = tmp_path / "kafka" / "libs" / "kafka_2.13-4.1.0.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    return tmp_path / "kafka"


def reason(found: Path | Unavailable) -> str:
    assert isinstance(found, Unavailable)
    assert "\n" not in found.reason
    return found.reason


def test_without_java_there_is_no_broker(tools: Path, add_program) -> None:
    assert reason(broker.find_home(tools)) == (
        "no java on PATH; Kafka needs Java 17 or newer, for example `apt-get install openjdk-17-jre-headless`"
    )


@pytest.mark.parametrize(("says", "seen"), [("11.0.2", "version 11"), ("1.8.0_292", "version 8")])
def test_an_old_java_is_told(says: str, seen: str, tools: Path, add_program) -> None:
    java = add_program("java", f"""echo 'openjdk version "{says}"' >&2""")
    assert reason(broker.find_home(tools)).startswith(f"{java} is {seen}; Kafka needs Java 17")


def test_a_java_that_does_not_run_is_told(tools: Path, add_program) -> None:
    add_program("java", "echo broken; exit 1")
    assert "of unknown version (broken)" in reason(broker.find_home(tools))


def test_java_home_wins_over_the_path(tools: Path, add_program, monkeypatch: pytest.MonkeyPatch) -> None:
    add_program("java", JAVA)
    monkeypatch.setenv("JAVA_HOME", str(tools))
    assert f"no java in JAVA_HOME={tools}" in reason(broker.find_home(tools))


def test_a_kafka_that_is_there_is_used(
    tools: Path, home: Path, add_program, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_program("java", JAVA)
    monkeypatch.setenv("KAFKA_HOME", str(home))
    assert broker.find_home(tools) == home


def test_a_kafka_home_that_is_none_is_told_and_nothing_is_fetched_instead(
    tools: Path, add_program, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_program("java", JAVA)
    add_program("mvn", MAVEN)
    monkeypatch.setenv("KAFKA_HOME", "/opt/nothing")
    assert "KAFKA_HOME=/opt/nothing has no libs/kafka_2.*.jar" in reason(broker.find_home(tools))


def test_without_kafka_and_maven_there_is_no_broker(tools: Path, add_program) -> None:
    add_program("java", JAVA)
    assert "apt-get install maven" in reason(broker.find_home(tools))


def test_maven_fetches_the_jars_once(tools: Path, add_program) -> None:
    add_program("java", JAVA)
    maven = add_program("mvn", MAVEN)
    first = broker.find_home(tools)
    maven.unlink()
    assert broker.find_home(tools) == first == tools / "kafka-4.1.0"
    assert [path.name for path in tools.iterdir()] == ["kafka-4.1.0"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo '[ERROR] no such host'; echo '[ERROR] more'; exit 1", "([ERROR] no such host)"),
        ("exit 1", "(it printed nothing)"),
    ],
)
def test_jars_that_cannot_be_had_are_told_in_one_line(
    script: str, told: str, tools: Path, add_program
) -> None:
    add_program("java", JAVA)
    add_program("mvn", script)
    assert f"Maven could not fetch it {told}" in reason(broker.find_home(tools))
    assert list(tools.iterdir()) == []


def test_a_maven_that_hangs_is_given_up(tools: Path, add_program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MAVEN_TIMEOUT_S", 0.05)
    add_program("java", JAVA)
    add_program("mvn", "exec sleep 60")
    assert "mvn did not end within 0.05 s" in reason(broker.find_home(tools))


def test_storage_is_formatted_once_and_ports_may_change(home: Path, tmp_path: Path, add_program) -> None:
    java = add_program("java", JAVA)
    data_dir = tmp_path / "data"
    broker.prepare(home, data_dir, 9092, 9093)
    broker.prepare(home, data_dir, 19092, 19093)
    (call,) = java.with_name("java.calls").read_text().splitlines()
    assert f"-cp {home}/libs/* kafka.tools.StorageTool format" in call
    properties = (data_dir / "server.properties").read_text().splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093" in properties
    assert "auto.create.topics.enable=false" in properties
    assert f"log.dirs={data_dir}/data" in properties


def test_storage_that_cannot_be_formatted_is_told_with_what_kafka_said(
    home: Path, tmp_path: Path, add_program
) -> None:
    add_program("java", f"{JAVA.splitlines()[1]}\necho 'No space left on device'; exit 1")
    with pytest.raises(StackError, match=r"did not format its storage in .*\nNo space left on device\n"):
        broker.prepare(home, tmp_path / "data", 9092, 9093)


def test_the_broker_is_java_itself_with_a_bounded_heap(home: Path, tmp_path: Path, add_program) -> None:
    java = add_program("java", JAVA)
    command = broker.command(home, tmp_path / "data", heap="256m")
    assert command.argv[:2] == (str(java), "-Xmx256m")
    assert command.argv[-4:] == (
        "-cp",
        f"{home}/libs/*",
        "kafka.Kafka",
        f"{tmp_path}/data/server.properties",
    )
    assert command.env == {"LC_ALL": "C.UTF-8"}


def test_no_command_is_made_without_java(home: Path, tmp_path: Path, add_program) -> None:
    with pytest.raises(StackError, match="no java on PATH"):
        broker.command(home, tmp_path / "data")


def test_a_broker_that_is_not_there_is_waited_for_with_a_bound() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StackError, match=rf"no Kafka at 127.0.0.1:{port}: .*is the broker running"):
        broker.wait_ready(f"127.0.0.1:{port}", timeout_s=0.0)
