import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.receipts import Receipt, Spool, seal


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, "stable-1")


def receipt(number: int = 1, user_id: str = "1") -> Receipt:
    return Receipt(
        request_id=f"r{number}",
        version_number=7,
        user_id=user_id,
        served_at="2026-01-01T00:00:00.000000+00:00",
        arm="stable",
        replica="stable-1",
        source="personal",
        movie_ids="a,b,c",
        watched="",
        latency_ms=1.5,
        status=200,
        canary_percent=20,
    )


def kept(folder: Path) -> list[Receipt]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_bytes().splitlines()]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Have the kernel cut every write at ``size`` bytes of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_receipt_is_one_line_of_json(tmp_path: Path) -> None:
    assert Spool(tmp_path, "stable-1").append(receipt())

    assert kept(tmp_path) == [receipt()]


@given(user_id=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_user_id_stays_on_its_line(tmp_path: Path, spool: Spool, user_id: str) -> None:
    spool.append(receipt(user_id=user_id))

    assert kept(tmp_path)[-1] == receipt(user_id=user_id)


def test_nothing_is_opened_before_the_first_receipt(tmp_path: Path) -> None:
    Spool(tmp_path / "spool", "stable-1")

    assert not (tmp_path / "spool").exists()


def test_a_file_is_named_after_its_replica_and_process(tmp_path: Path) -> None:
    Spool(tmp_path, "stable-1").append(receipt())

    (path,) = tmp_path.iterdir()
    replica, pid, started_ns = path.stem.rsplit("-", 2)
    assert (replica, int(pid), path.suffix) == ("stable-1", os.getpid(), ".jsonl")
    assert int(started_ns) > 10**18


def test_a_forked_worker_writes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "stable-1")
    spool.append(receipt(1))
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    spool.append(receipt(2))

    assert {int(path.stem.split("-")[-2]) for path in tmp_path.iterdir()} == {parent, parent + 1}


def test_a_large_file_is_finished_and_the_next_begun(tmp_path: Path) -> None:
    line = len(json.dumps(receipt(), separators=(",", ":"))) + 1
    spool = Spool(tmp_path, "stable-1", rotate_bytes=2 * line)
    for number in range(5):
        spool.append(receipt(number))

    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".done", ".done", ".jsonl"]
    assert [one["request_id"] for one in kept(tmp_path)] == ["r0", "r1", "r2", "r3", "r4"]


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "stable-1", rotate_bytes=10_000)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: spool.append(receipt(number)), range(400)))

    assert sorted(one["request_id"] for one in kept(tmp_path)) == sorted(f"r{n}" for n in range(400))


def test_a_full_disk_loses_receipts_but_never_tears_a_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "stable-1")
    spool.append(receipt(0))
    (path,) = tmp_path.iterdir()
    one_and_a_half = path.stat().st_size * 3 // 2
    with files_limited_to(one_and_a_half):
        outcomes = [spool.append(receipt(number)) for number in (1, 2)]
    outcomes.append(spool.append(receipt(3)))

    assert outcomes == [False, False, True]
    assert [one.get("request_id", "loss") for one in kept(tmp_path)] == ["r0", "loss", "r3"]


def test_a_loss_is_written_down_with_the_first_receipt_that_is_kept_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = Spool(folder, "stable-1")
    folder.touch()
    for second in (1, 2, 3):
        spool.append(receipt(second) | {"served_at": f"2026-01-01T00:00:0{second}.000000+00:00"})
    folder.unlink()
    for second in (4, 5):
        spool.append(receipt(second))

    assert kept(folder) == [
        {
            "lost": 3,
            "replica": "stable-1",
            "since": "2026-01-01T00:00:01.000000+00:00",
            "until": "2026-01-01T00:00:03.000000+00:00",
        },
        receipt(4),
        receipt(5),
    ]


def test_a_loss_counts_on_while_there_is_no_room_to_write_it_down(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "stable-1")
    spool.append(receipt(0))
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    with files_limited_to(size):
        spool.append(receipt(1))
    with files_limited_to(2 * size):  # room for the receipt, but not for the loss before it
        kept_again = spool.append(receipt(2))
    spool.append(receipt(3))

    assert not kept_again
    assert [one.get("lost", one.get("request_id")) for one in kept(tmp_path)] == ["r0", 1 + 1, "r3"]


def test_an_outage_is_told_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "spool"
    folder.touch()
    spool = Spool(folder, "stable-1")
    lost = [spool.append(receipt(number)) for number in range(3)]
    folder.unlink()
    found = spool.append(receipt(3))

    assert (lost, found) == ([False] * 3, True)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert str(folder) in caplog.text
    assert "after 3 lost" in caplog.text


def test_sealing_hands_over_what_ended_workers_left(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    # The same process id again: this process is no worker, whatever it is called.
    left, also_left = f"stable-1-{ended.pid}-1", f"stable-1-{os.getpid()}-2"
    for name in (left, also_left):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")

    done = [tmp_path / f"{name}.done" for name in sorted([left, also_left])]
    assert seal(tmp_path, "stable-1") == done
    assert sorted(tmp_path.iterdir()) == done


WRITER = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write("{}\\n")
    file.flush()
    print("writes", flush=True)
    sys.stdin.read()
"""


def test_sealing_leaves_alone_what_a_process_writes_that_cannot_be_seen_from_here(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    # As a worker of another container: the id in the name is nobody's here.
    spool = tmp_path / f"stable-1-{ended.pid}-1.jsonl"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, spool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    assert writer.stdout.readline() == "writes\n"

    assert seal(tmp_path, "stable-1") == []
    writer.kill()
    writer.communicate()
    assert seal(tmp_path, "stable-1") == [spool.with_suffix(".done")]


def test_sealing_goes_on_past_a_file_that_cannot_be_renamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    stuck, free = (f"stable-1-{ended.pid}-{number}" for number in (1, 2))
    for name in (stuck, free):
        (tmp_path / f"{name}.jsonl").touch()
    (tmp_path / f"{stuck}.done").mkdir()

    assert seal(tmp_path, "stable-1") == [tmp_path / f"{free}.done"]
    assert f"{stuck}.jsonl cannot be marked as done" in caplog.text


def test_sealing_leaves_other_replicas_and_other_files_alone(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {f"stable-1-extra-{ended.pid}-1.jsonl", f"stable-{ended.pid}-1.jsonl", "notes.jsonl"}
    for name in names:
        (tmp_path / name).touch()

    assert seal(tmp_path, "stable-1") == []
    assert {path.name for path in tmp_path.iterdir()} == names


def test_sealing_a_folder_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    assert seal(tmp_path / "spool", "stable-1") == []
