import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import recents
from pipelines.errors import DataError
from pipelines.recents import Recents, RecentsWriter, Viewing

NOON = datetime(2026, 1, 10, 12, 0, tzinfo=UTC)


def at(hours: float, user: str = "1", movie: str = "a") -> Viewing:
    """A viewing so many hours after noon."""
    return Viewing(user, movie, NOON + timedelta(hours=hours))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recents"


@pytest.fixture
def writer(folder: Path) -> Iterator[RecentsWriter]:
    with RecentsWriter(folder, keep_days=1.0, most=3) as opened:
        yield opened


def watched(writer: RecentsWriter, folder: Path, user_id: str = "1") -> tuple[str, ...]:
    """Read as a replica does; one process may not have the folder open twice."""
    writer.close()
    return Recents(folder).watched(user_id)


def test_the_latest_movie_comes_first_and_each_comes_once(writer: RecentsWriter, folder: Path) -> None:
    writer.add([at(1, movie="b"), at(0, movie="a"), at(2, movie="a"), at(1.5, movie="b")], {})

    assert watched(writer, folder) == ("a", "b")


def test_later_viewings_join_the_earlier_ones(writer: RecentsWriter, folder: Path) -> None:
    writer.add([at(0, movie="a"), at(1, movie="b")], {})
    writer.add([at(2, movie="a"), at(0.5, movie="c")], {})

    assert watched(writer, folder) == ("a", "b", "c")


def test_movies_of_the_same_second_come_in_the_order_of_their_ids(
    writer: RecentsWriter, folder: Path
) -> None:
    writer.add([at(0, movie="b"), at(0, movie="c"), at(0, movie="a")], {})

    assert watched(writer, folder) == ("a", "b", "c")


def test_only_the_latest_few_movies_of_a_user_are_remembered(writer: RecentsWriter, folder: Path) -> None:
    writer.add([at(hour, movie=f"m{hour}") for hour in range(5)], {})

    assert watched(writer, folder) == ("m4", "m3", "m2")


@pytest.mark.parametrize("user_id", ["2", "", "\0", "é" * 400, "\ud800", "1\0", "newest"])
def test_whoever_has_watched_nothing_has_no_movies(writer: RecentsWriter, folder: Path, user_id: str) -> None:
    writer.add([at(0, user="1")], {("stream", 0): 7})

    assert watched(writer, folder, user_id) == ()


def test_a_folder_that_is_not_there_knows_nobody(folder: Path) -> None:
    assert Recents(folder).watched("1") == ()
    assert not folder.exists()


def test_a_folder_that_is_just_being_made_knows_nobody(folder: Path) -> None:
    lmdb.open(str(folder)).close()

    assert Recents(folder).watched("1") == ()


def test_a_damaged_folder_says_what_to_do(folder: Path) -> None:
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"no database" * 1_000)

    with pytest.raises(DataError, match="delete the folder"):
        Recents(folder).watched("1")
    with pytest.raises(DataError, match="could not open in"):
        RecentsWriter(folder, keep_days=1.0)


def test_a_folder_that_comes_or_is_replaced_is_seen_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(recents.time, "monotonic", lambda: clock[0])
    folder, seen = tmp_path / "recents", []
    reader = Recents(folder)
    for movie in ("none", "first", "second"):
        if movie != "none":
            with RecentsWriter(tmp_path / movie, keep_days=1.0) as writer:
                writer.add([at(0, movie=movie)], {})
            folder.exists() and folder.rename(tmp_path / "aside")
            (tmp_path / movie).rename(folder)
        clock[0] += 1.0
        seen.append(reader.watched("1"))

    assert seen == [(), ("first",), ("second",)]


def test_a_reader_sees_what_another_process_has_just_written(writer: RecentsWriter, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.recents import Recents\n"
        "reader = Recents(Path(sys.argv[1]))\n"
        "for line in sys.stdin: print(*reader.watched(line.strip()), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin
        assert reader.stdout
        seen = []
        for hour, movie in enumerate("abc"):
            writer.add([at(hour, movie=movie)], {})
            print("1", file=reader.stdin, flush=True)
            seen.append(reader.stdout.readline().split())

    assert seen == [["a"], ["b", "a"], ["c", "b", "a"]]


def test_where_to_go_on_is_remembered_with_the_viewings(folder: Path) -> None:
    with RecentsWriter(folder, keep_days=1.0) as writer:
        writer.add([at(0)], {("one", 0): 10, ("one", 1): 20})
        writer.add([], {("one", 0): 11, ("two", 0): 5})
    with RecentsWriter(folder, keep_days=1.0) as again:
        assert again.next_offsets() == {("one", 0): 11, ("one", 1): 20, ("two", 0): 5}


def test_a_failing_portion_leaves_neither_viewings_nor_offsets(writer: RecentsWriter, folder: Path) -> None:
    writer.add([at(0)], {("stream", 0): 1})
    with pytest.raises(AttributeError):
        writer.add([at(1, movie="b")], {("stream", 0): 2, (None, 0): 2})  # type: ignore[dict-item]

    assert writer.next_offsets() == {("stream", 0): 1}
    assert watched(writer, folder) == ("a",)


def test_a_full_folder_is_an_error_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recents, "_MAP_BYTES", 2**16)
    with RecentsWriter(folder, keep_days=1.0) as writer:
        with pytest.raises(DataError, match="free space"):
            writer.add([at(0, user=str(user), movie="m" * 200) for user in range(500)], {("stream", 0): 500})
        assert writer.next_offsets() == {}


def test_what_is_older_than_the_newest_by_the_days_to_keep_is_forgotten(
    writer: RecentsWriter, folder: Path
) -> None:
    writer.add([at(0, user="1"), at(0, user="2"), at(13, user="2", movie="b")], {})
    writer.add([at(25, user="3")], {})

    assert writer.sweep() == 1
    assert [watched(writer, folder, user) for user in "123"] == [(), ("b",), ("a",)]


def test_what_comes_too_old_is_not_taken_in(writer: RecentsWriter, folder: Path) -> None:
    writer.add([at(25, user="2")], {})
    writer.add([at(0, user="1"), at(0, user="2", movie="b")], {})

    assert [watched(writer, folder, user) for user in "12"] == [(), ("a",)]


def test_a_time_in_the_future_counts_as_now(writer: RecentsWriter, folder: Path) -> None:
    now = datetime.now(UTC)
    writer.add([Viewing("1", "tomorrow", now.replace(year=now.year + 900)), Viewing("1", "today", now)], {})

    assert writer.sweep() == 0
    assert set(watched(writer, folder)) == {"tomorrow", "today"}


def test_sweeping_goes_round_in_portions(writer: RecentsWriter) -> None:
    users = [str(user) for user in range(10)]
    writer.add([at(0, user=user) for user in users], {})
    writer.add([at(25, user=users[0])], {})

    assert [writer.sweep(most_users=4) for _ in range(4)] == [4 - 1, 4, 2, 0]


def test_pages_that_a_reader_may_look_at_are_held_back_for_a_while(
    writer: RecentsWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(recents.time, "monotonic", lambda: clock[0])
    held = []
    for _ in range(30):
        writer.add([at(0)], {})
        held.append(len(writer._grace))
        clock[0] += 2.0

    assert max(held) == held[-1] == recents.GRACE_S / 2 + 1


@given(st.lists(st.tuples(st.sampled_from("12"), st.sampled_from("abcde"), st.integers(0, 23)), max_size=30))
@settings(max_examples=15, deadline=None)
def test_portions_and_their_order_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, int]]
) -> None:
    viewings = [at(hour, user=user, movie=movie) for user, movie, hour in events]
    outcomes = []
    for portions in ([viewings], [[viewing] for viewing in reversed(viewings)]):
        folder = tmp_path_factory.mktemp("recents")
        with RecentsWriter(folder, keep_days=2.0) as writer:
            for portion in portions:
                writer.add(portion, {})
        reader = Recents(folder)
        outcomes.append([reader.watched(user) for user in "12"])

    assert outcomes[0] == outcomes[1]
