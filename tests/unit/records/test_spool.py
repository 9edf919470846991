import os
from io import BytesIO

from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.records.spool import chunks, spool_files
from tests.receipts import GONE_PID

ANY_BYTES = st.lists(st.sampled_from([b"a", b"bc", b"\n"]), max_size=30).map(b"".join)


def test_files_are_known_by_their_name(spool_dir):
    for name in ("stable-1-5-100.jsonl", "canary-7-9.done", "notes.txt", ".stable-1-5-100.jsonl.tmp"):
        (spool_dir / name).touch()
    assert [(file.key, file.sealed) for file in spool_files(spool_dir)] == [
        ("canary-7-9", True),
        ("stable-1-5-100", False),
    ]


def test_no_folder_has_no_files(tmp_path):
    assert spool_files(tmp_path / "missing") == []


def test_file_is_finished_when_nobody_writes_it_though_its_process_id_lives_here(spool_dir):
    """A replica in another container had that id, too: such a file would never be deleted."""
    (spool_dir / f"stable-1-{os.getpid()}-1.jsonl").touch()
    assert spool_files(spool_dir)[0].is_finished()


def test_file_is_not_finished_while_it_is_open_for_writing(spool_dir):
    with (spool_dir / f"stable-1-{GONE_PID}-1.jsonl").open("wb"):
        assert not spool_files(spool_dir)[0].is_finished()


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
