"""Archived logs beside the live stream: each has offsets of its own, whatever it is called."""

import gzip
from pathlib import Path

import pytest

from pipelines.data.batches import list_batches, read_ratings
from pipelines.data.collect import Collected, collect
from pipelines.data.planning import namesake
from pipelines.events.sources import FileSource


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "batches"


def write(path: Path, user: int, lines: int) -> Path:
    """A log of so many ratings of one user."""
    path.parent.mkdir(exist_ok=True)
    text = "".join(f"2022-11-14T12:{n:02},{user},GET /rate/film+{n}+2001=4\n" for n in range(lines)).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def ranges(out: Path) -> list[tuple[str, int, int, int]]:
    return [(batch.topic, batch.generation, batch.first, batch.last) for batch in list_batches(out)]


def collected(path: Path, out: Path) -> Collected:
    return collect(FileSource(path), out)


def test_a_log_goes_on_where_it_was_before_it_was_packed(tmp_path: Path, out: Path) -> None:
    collected(write(tmp_path / "monday.log", 1, lines=5), out)
    again = collected(write(tmp_path / "monday.log.gz", 1, lines=8), out)
    assert (again.lines, again.notes) == (3, [])
    assert ranges(out) == [("monday", 1, 0, 4), ("monday", 1, 5, 7)]


def test_each_log_has_offsets_of_its_own(tmp_path: Path, out: Path) -> None:
    for name, user in (("monday", 1), ("tuesday", 2)):
        assert collected(write(tmp_path / f"{name}.log.gz", user, lines=5), out).notes == []
    assert ranges(out) == [("monday", 1, 0, 4), ("tuesday", 1, 0, 4)]


def test_a_log_that_is_called_like_the_live_stream_does_not_disturb_it(tmp_path: Path, out: Path) -> None:
    live, archived = tmp_path / "live" / "movielog4.log", tmp_path / "archived" / "movielog4.log.gz"
    collected(write(live, 1, lines=5), out)
    assert collected(write(archived, 2, lines=20), out).lines == 20
    assert collected(write(live, 1, lines=8), out).lines == 3
    assert collected(write(archived, 2, lines=21), out).lines == 1
    assert collected(write(live, 1, lines=9), out).lines == 1
    assert ranges(out) == [
        *(("movielog4", 1, first, last) for first, last in ((0, 4), (5, 7), (8, 8))),
        *(("movielog4", 2, first, last) for first, last in ((0, 19), (20, 20))),
    ]
    assert read_ratings(out).user_id.value_counts().to_dict() == {"1": 9, "2": 21}


def test_the_same_lines_under_another_name_are_told(tmp_path: Path, out: Path) -> None:
    collected(write(tmp_path / "monday.log", 1, lines=5), out)
    (note,) = collected(write(tmp_path / "copy-of-monday.log", 1, lines=5), out).notes
    assert note.startswith("copy-of-monday begins with the same line as monday, which was collected before")
    # Told once: from now on it has a name.
    assert collected(tmp_path / "copy-of-monday.log", out).notes == []


def test_a_namesake_begins_with_the_same_line() -> None:
    known = {("b", 1): "first line", ("a", 2): "first line", ("c", 1): "another"}
    assert namesake("d", "a third", known) == ""
    assert "begins with the same line as a" in namesake("d", "first line", known)
