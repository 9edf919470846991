import os
from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.records.spool import chunks, spool_files
from tests.receipts import GONE_PID

ANY_BYTES = st.lists(st.sampled_from([b"a", b"bc", b"\n"]), max_size=30).map(b"".join)


def test_files_are_known_by_their_name(spool_dir):
    for name in ("stable-1-5-100.jsonl", "canary-7-9.done", "notes.txt", ".stable-1-5-100.jsonl.tmp"):
        (spool_dir / name).touch()
    assert [(file.key, file.pid, file.sealed) for file in spool_files(spool_dir)] == [
        ("canary-7-9", 7, True),
        ("stable-1-5-100", 5, False),
    ]


def test_no_folder_has_no_files(tmp_path):
    assert spool_files(tmp_path / "missing") == []


@pytest.mark.parametrize(("pid", "gone"), [(os.getpid(), False), (GONE_PID, True)], ids=["alive", "gone"])
def test_writer_is_there_as_long_as_its_process(spool_dir, pid, gone):
    (spool_dir / f"stable-1-{pid}-1.jsonl").touch()
    assert spool_files(spool_dir)[0].has_no_writer() is gone


def test_writer_is_there_while_the_file_is_open_for_writing(spool_dir):
    with (spool_dir / f"stable-1-{GONE_PID}-1.jsonl").open("wb"):
        assert not spool_files(spool_dir)[0].has_no_writer()


@given(data=ANY_BYTES, most_bytes=st.integers(1, 12), cut=st.integers(0, 60))
@example(data=b"a\nbc", most_bytes=4, cut=0)
def test_chunks_are_the_file_without_its_unended_line(data, most_bytes, cut):
    start = min(cut, len(data))
    read = list(chunks(BytesIO(data), start, most_bytes=most_bytes, finished=False))
    whole = b"".join(lines for lines, _ in read)
    assert data[start:].startswith(whole)
    assert all(len(lines) <= most_bytes for lines, _ in read)
    assert b"\n" not in data[start + len(whole) :]
    assert [end for _, end in read] == [
        start + sum(len(lines) for lines, _ in read[: count + 1]) for count in range(len(read))
    ]


@given(data=ANY_BYTES, most_bytes=st.integers(1, 12))
def test_finished_file_is_read_to_its_last_byte(data, most_bytes):
    read = chunks(BytesIO(data), 0, most_bytes=most_bytes, finished=True)
    assert b"".join(lines for lines, _ in read) == data
