from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.local.audience.sinks import FileSink, KafkaSink
from tests.ports import free_ports


def test_lines_are_appended_whole_and_in_order(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "new folder" / "events.log")
    assert sink.write(["a", "Amélie"]) == 2
    assert sink.write(["b"]) == 1
    sink.close()
    assert sink.path.read_bytes() == "a\nAmélie\nb\n".encode()


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "events.log")
    sink.write(["old"])
    sink.path.rename(tmp_path / "events.log.1")
    sink.write(["new"])
    assert sink.path.read_text() == "new\n"


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=rf"cannot be appended to {tmp_path}"):
        FileSink(tmp_path).write(["line"])


def test_a_broker_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr("pipelines.local.audience.sinks.CONNECT_TIMEOUT_S", 0.0)
    sink = KafkaSink(f"127.0.0.1:{port}", "movielog4")
    with pytest.raises(StackError, match=f"no Kafka at 127.0.0.1:{port}"):
        sink.write(["line"])
    sink.close()
