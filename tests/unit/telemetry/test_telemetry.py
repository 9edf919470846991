import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipelines.data import quarantine
from pipelines.data.batches import Batch, list_batches
from pipelines.data.collect import collect
from pipelines.errors import DataError, SettingsError
from pipelines.events.grammar import MAX_MOVIES, Event, Rating, Request, Watch
from pipelines.events.sources import FileSource
from pipelines.telemetry import answering, show
from pipelines.telemetry.answering import Answer, Row, ask
from pipelines.telemetry.questions import QUESTIONS, Asked, By

NOON = datetime(2022, 11, 14, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVERYTHING = [(asked, by) for asked, question in QUESTIONS.items() for by in question.keys]


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def add(folder: Path, *events: Event | bytes, log: str = "day.log") -> Batch:
    """Add lines to a log and collect them: one more batch."""
    path = folder.parent / log
    with path.open("ab") as file:
        for event in events:
            file.write((event if isinstance(event, bytes) else event.line().encode()) + b"\n")
    (name,) = collect(FileSource(path), folder).batches
    return next(batch for batch in list_batches(folder) if batch.name == name)


def request(minute: float, user: int, movies: Sequence[str], ms: int, status: int = 200) -> Request:
    return Request(at(minute), user, "host", 8082, status, tuple(movies), "" if movies else "timeout", ms)


def figures(told: Answer, *names: str) -> list[tuple[object, ...]]:
    """Of each group the key and the named figures."""
    return [tuple(row[name] for name in (told.by.value, *names)) for row in told.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "batches"


class TestWatched:
    def test_a_viewing_is_a_user_and_a_movie(self, folder: Path) -> None:
        add(
            folder,
            *(Watch(at(minute), 7, "heat+1995", minute) for minute in range(3)),
            Watch(at(1), 8, "heat+1995", 50),
            Watch(at(2), 8, "big+1988", 9),
        )
        told = ask(folder, Asked.WATCHED, By.MOVIE)
        assert figures(told, "viewings", "minutes", "minutes_each") == [
            ("heat+1995", 2, 3 + 1, (3 + 1) / 2),
            ("big+1988", 1, 1, 1.0),
        ]
        assert told.total == {"viewings": 3, "minutes": 5, "minutes_each": pytest.approx(5 / 3)}
        told = ask(folder, Asked.WATCHED, By.USER)
        assert figures(told, "viewings", "minutes") == [(8, 2, 2), (7, 1, 3)]

    def test_a_viewing_that_goes_on_in_the_next_batch_is_still_one(self, folder: Path) -> None:
        add(folder, Watch(at(0), 7, "heat+1995", 0), Watch(at(1), 7, "heat+1995", 1))
        add(folder, Watch(at(2), 7, "heat+1995", 2))
        for by in (By.MOVIE, By.USER):
            told = ask(folder, Asked.WATCHED, by)
            assert (told.rows[0]["viewings"], told.rows[0]["minutes"]) == (1, 2 + 1)
            assert (told.total["viewings"], told.total["minutes"]) == (1, 2 + 1)

    def test_a_row_counts_in_the_hour_in_which_it_begins(self, folder: Path) -> None:
        add(folder, *(Watch(at(59 + minute), 7, "heat+1995", minute) for minute in range(3)))
        add(folder, Watch(at(62), 7, "heat+1995", 3), Watch(at(63), 8, "heat+1995", 4))
        told = ask(folder, Asked.WATCHED, By.HOUR)
        assert figures(told, "viewings", "minutes", "users") == [(NOON, 1, 3, 1), (NOON + HOUR, 2, 2, 2)]
        assert (told.total["viewings"], told.total["minutes"], told.total["users"]) == (2, 5, 2)

    def test_a_minute_counts_once_in_a_batch(self, folder: Path) -> None:
        add(folder, Watch(at(0), 7, "heat+1995", 5), Watch(at(9), 7, "heat+1995", 5))
        assert ask(folder, Asked.WATCHED, By.MOVIE).total["minutes"] == 1


class TestRatings:
    def test_count_mean_and_histogram(self, folder: Path) -> None:
        stars = [5, 5, 4, 1]
        add(folder, *(Rating(at(minute), 7, "heat+1995", each) for minute, each in enumerate(stars)))
        add(folder, Rating(at(60), 8, "big+1988", 3))
        told = ask(folder, Asked.RATINGS, By.MOVIE)
        assert told.rows[0] == {
            **{"movie": "heat+1995", "ratings": 4, "mean": 15 / 4},
            **{"stars_1": 1, "stars_2": 0, "stars_3": 0, "stars_4": 1, "stars_5": 2},
        }
        assert (told.total["ratings"], told.total["mean"], told.total["stars_3"]) == (5, 18 / 5, 1)
        assert figures(ask(folder, Asked.RATINGS, By.USER), "ratings") == [(7, 4), (8, 1)]
        assert figures(ask(folder, Asked.RATINGS, By.HOUR), "ratings") == [(NOON, 4), (NOON + HOUR, 1)]


class TestRequests:
    def test_shares_short_lists_and_response_times(self, folder: Path) -> None:
        whole = [f"m{number}+2001" for number in range(MAX_MOVIES)]
        add(
            folder,
            *(request(minute, 7, whole, ms=10 * minute) for minute in range(1, 18)),
            request(18, 7, whole[:3], ms=5),
            request(19, 7, [], ms=815, status=0),
            request(20, 8, [], ms=4, status=500),
        )
        total = ask(folder, Asked.REQUESTS, By.HOUR).total
        assert (total["requests"], total["answered_share"], total["gave_up_share"]) == (20, 18 / 20, 1 / 20)
        assert total["short_lists"] == 1
        # Sorted: 4, 5, 10, 20, ... 170, 815. The tenth of 20 is 80, the nineteenth 170.
        assert (total["p50_ms"], total["p95_ms"], total["max_ms"]) == (80, 170, 815)
        assert figures(ask(folder, Asked.REQUESTS, By.USER), "requests", "max_ms") == [
            (7, 19, 815),
            (8, 1, 4),
        ]

    def test_a_request_counts_for_every_movie_in_its_list_and_once_in_all(self, folder: Path) -> None:
        add(
            folder,
            request(0, 7, ["heat+1995", "big+1988"], ms=9),
            request(1, 7, ["heat+1995"], ms=9),
            request(2, 7, ["heat+1995"], ms=815, status=0),
            request(3, 7, [], ms=815, status=0),
        )
        told = ask(folder, Asked.REQUESTS, By.MOVIE)
        assert figures(told, "requests", "short_lists") == [("heat+1995", 3, 2), ("big+1988", 1, 1)]
        assert (told.total["requests"], told.total["gave_up_share"]) == (4, 2 / 4)


class TestRejects:
    def test_they_are_counted_by_reason(self, folder: Path) -> None:
        add(folder, b"garbage", b"", b"more garbage", Rating(at(0), 7, "heat+1995", 5))
        told = ask(folder, Asked.REJECTS, By.REASON)
        assert figures(told, "rejects", "share") == [("bad-time", 2, 2 / 3), ("empty", 1, 1 / 3)]
        assert told.total == {"rejects": 3, "share": 1.0}

    def test_they_have_the_time_of_the_rating_or_request_before_them(self, folder: Path) -> None:
        add(
            folder,
            *(b"1", Watch(at(0), 7, "heat+1995", 1), b"2"),
            *(Rating(at(60), 7, "heat+1995", 5), b"", request(120, 7, ["heat+1995"], ms=9), b"3", b"4"),
        )
        add(folder, b"5", Rating(at(180), 7, "heat+1995", 5))
        told = ask(folder, Asked.REJECTS, By.HOUR)
        assert figures(told, "rejects", "reasons") == [
            (NOON, 2, {"bad-time": 2}),
            (NOON + HOUR, 1, {"empty": 1}),
            (NOON + 2 * HOUR, 2, {"bad-time": 2}),
            (NOON + 3 * HOUR, 1, {"bad-time": 1}),
        ]
        told = ask(folder, Asked.REJECTS, By.REASON, since=at(60), until=at(121))
        assert figures(told, "rejects") == [("bad-time", 2), ("empty", 1)]

    def test_a_batch_of_rejects_alone_has_the_time_at_which_it_was_collected(self, folder: Path) -> None:
        collected_at = add(folder, b"garbage", b"").info().collected_at
        told = ask(folder, Asked.REJECTS, By.REASON)
        assert (told.since, told.newest, told.total["rejects"]) == (collected_at, collected_at, 2)

    def test_a_batch_of_rejects_alone_does_not_move_what_durations_count_back_from(
        self, folder: Path
    ) -> None:
        add(folder, Rating(at(0), 7, "heat+1995", 5), b"garbage", log="one.log")
        add(folder, b"garbage", log="two.log")
        assert ask(folder, Asked.REJECTS, By.REASON).total["rejects"] == 2
        told = ask(folder, Asked.RATINGS, By.HOUR, since=HOUR)
        assert (told.newest, told.total["ratings"]) == (at(0), 1)

    def test_streams_do_not_date_each_other(self, folder: Path) -> None:
        add(folder, Rating(at(0), 7, "heat+1995", 5), b"garbage", log="one.log")
        add(folder, Rating(at(600), 7, "heat+1995", 5), log="two.log")
        assert figures(ask(folder, Asked.REJECTS, By.HOUR), "rejects") == [(NOON, 1)]

    @pytest.mark.parametrize("by", [By.MOVIE, By.USER])
    def test_nothing_else_is_known_of_them(self, by: By) -> None:
        assert by not in QUESTIONS[Asked.REJECTS].keys


class TestTime:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A rating each hour for four hours, two in a batch; the last is of 15:00."""
        folder = tmp_path / "batches"
        for hour in (0, 2):
            add(folder, *(Rating(at(60 * (hour + more)), 7, "heat+1995", 3) for more in (0, 1)))
        return folder

    @pytest.mark.parametrize(
        ("since", "until", "hours"),
        [
            (None, None, [0, 1, 2, 3]),
            (at(60), None, [1, 2, 3]),
            (at(60.1), None, [2, 3]),
            (None, at(60), [0]),
            (at(60), at(180), [1, 2]),
            (HOUR, None, [2, 3]),
            (2 * HOUR, HOUR, [1]),
            (timedelta(days=9), timedelta(0), [0, 1, 2]),
            (at(61), at(119), []),
            (at(181), at(300), []),
        ],
    )
    def test_the_beginning_counts_and_the_end_does_not_and_durations_count_from_the_newest_event(
        self,
        folder: Path,
        since: datetime | timedelta | None,
        until: datetime | timedelta | None,
        hours: list[int],
    ) -> None:
        told = ask(folder, Asked.RATINGS, By.HOUR, since=since, until=until)
        assert figures(told, "ratings") == [(NOON + hour * HOUR, 1) for hour in hours]
        assert told.total["ratings"] == len(hours)

    def test_an_answer_rests_on_the_batches_of_that_time(self, folder: Path) -> None:
        told = ask(folder, Asked.RATINGS, By.HOUR, since=at(120))
        assert (told.since, told.until) == (at(120), at(180) + timedelta(microseconds=1))
        assert (told.newest, told.batches, told.lines) == (at(180), 1, 2)
        assert ask(folder, Asked.RATINGS, By.HOUR, since=at(61), until=at(119)).batches == 0

    @pytest.mark.parametrize(("asked", "by"), EVERYTHING)
    def test_a_time_without_anything_has_a_total_of_nothing(self, folder: Path, asked: Asked, by: By) -> None:
        told = ask(folder, asked, by, since=at(61), until=at(119))
        assert (told.rows, told.groups) == ([], 0)
        assert next(iter(told.total.values())) == 0
        json.dumps(told.as_json(), allow_nan=False)

    def test_clocks_that_were_never_set_are_in_time(self, folder: Path) -> None:
        ends = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
        add(folder, *(Rating(time, 5, "a+2001", 4) for time in ends), log="clock.log")
        assert ask(folder, Asked.RATINGS, By.HOUR).until == ends[1]
        told = ask(folder, Asked.RATINGS, By.HOUR, since=timedelta(days=9_000_000), until=at(0))
        assert (told.since, figures(told, "ratings")) == (ends[0], [(ends[0], 1)])

    def test_an_end_before_the_beginning_is_wrong(self, folder: Path) -> None:
        with pytest.raises(SettingsError, match=r"not before --until .* newest event, 2022-11-14T15:00"):
            ask(folder, Asked.RATINGS, By.HOUR, since=HOUR, until=2 * HOUR)


class TestTop:
    def test_the_largest_come_first_and_equals_by_name(self, folder: Path) -> None:
        movies = ["big+1988", "heat+1995", "heat+1995", "alien+1979"]
        add(folder, *(Rating(at(minute), 7, movie, 3) for minute, movie in enumerate(movies)))
        told = ask(folder, Asked.RATINGS, By.MOVIE, top=2)
        assert figures(told, "ratings") == [("heat+1995", 2), ("alien+1979", 1)]
        assert (told.groups, told.total["ratings"]) == (3, 4)

    def test_the_largest_hours_stay_in_the_order_of_time(self, folder: Path) -> None:
        minutes = [0, 1, 60, 120, 121, 122]
        add(folder, *(Rating(at(minute), 7, "heat+1995", 3) for minute in minutes))
        assert figures(ask(folder, Asked.RATINGS, By.HOUR, top=2), "ratings") == [
            (NOON, 2),
            (NOON + 2 * HOUR, 3),
        ]


class TestFolder:
    def test_without_a_batch_it_says_what_makes_some(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no batch in .*pipelines collect"):
            ask(tmp_path / "nowhere", Asked.RATINGS, By.HOUR)

    def test_other_files_are_passed_over(self, folder: Path) -> None:
        batch = add(folder, Rating(at(0), 7, "heat+1995", 5))
        (folder / f".{batch.name}.tmp").write_bytes(b"half")
        (folder / "ratings.parquet").write_bytes(b"no batch")
        assert ask(folder, Asked.RATINGS, By.HOUR).total["ratings"] == 1

    def test_a_damaged_batch_is_named(self, folder: Path) -> None:
        batch = add(folder, *(Rating(at(minute), minute + 1, "heat+1995", 5) for minute in range(100)))
        whole = bytearray(batch.path.read_bytes())
        whole[4:600] = bytes(596)
        batch.path.write_bytes(whole)
        with pytest.raises(DataError, match=r"could not be read .*restore"):
            ask(folder, Asked.RATINGS, By.HOUR)

    def test_what_fits_into_neither_memory_nor_disk_says_what_to_do(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        spill = tmp_path / "spill"
        spill.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(spill))
        monkeypatch.setattr(answering, "MEMORY_LIMIT", "100KB")
        add(folder, *(Watch(at(minute), minute + 1, "heat+1995", 1) for minute in range(200)))
        with pytest.raises(DataError, match=r"neither into 100KB of memory .*--since"):
            ask(folder, Asked.WATCHED, By.USER)
        assert list(spill.iterdir()) == []

    @pytest.mark.parametrize(
        "name", ["a[b]*?", "it's; DROP TABLE starts; --", "kind=watch", "x/../kind=y[z]"]
    )
    def test_any_name_of_a_folder_will_do(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "x").mkdir()
        folder = tmp_path / name / "batches"
        folder.mkdir(parents=True)
        add(folder, b"garbage", Rating(at(0), 7, "heat+1995", 5), b"")
        assert ask(folder, Asked.RATINGS, By.USER).total["ratings"] == 1
        assert ask(folder, Asked.REJECTS, By.REASON).total["rejects"] == 2

    @pytest.mark.parametrize("older", [0, 1])
    def test_batches_without_the_newer_columns_are_read_beside_those_that_have_them(
        self, folder: Path, older: int
    ) -> None:
        add(folder, Watch(at(0), 7, "heat+1995", 1), Rating(at(0), 7, "heat+1995", 5))
        add(folder, Watch(at(1), 8, "heat+1995", 1), Rating(at(1), 8, "heat+1995", 5))
        path = list_batches(folder)[older].path
        kept = pq.read_table(path, partitioning=None)
        newer = [name for name in ("last_offset", "first_minute", "seen") if name in kept.schema.names]
        pq.write_table(kept.drop_columns(newer), path)
        for asked in (Asked.WATCHED, Asked.RATINGS):
            assert figures(ask(folder, asked, By.USER), *list(QUESTIONS[asked].figures)[:1]) == [
                (7, 1),
                (8, 1),
            ]

    def test_what_is_in_quarantine_arrived_and_counts(self, folder: Path) -> None:
        batch = add(folder, Rating(at(0), 7, "heat+1995", 5), Rating(at(1), 7, "heat+1995", 1))
        out = quarantine.Quarantined(batch.topic, 1, 0, 1, 1, "a test", "me", NOON)
        quarantine.add(folder, out)
        assert ask(folder, Asked.RATINGS, By.HOUR).total["ratings"] == 2


class TestShowing:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Something of everything, with names and numbers as long as they come."""
        folder = tmp_path / "batches"
        movie = "the+lord+of+the+rings+the+fellowship+of+the+ring+extended+2001"
        add(
            folder,
            *(b"garbage", b"", Watch(at(0), 1_000_000, movie, 1), Rating(at(0), 1_000_000, movie, 5)),
            *(request(0, 1_000_000, [movie], ms=99_999), b"garbage again"),
        )
        return folder

    @pytest.mark.parametrize(("asked", "by"), EVERYTHING)
    def test_every_answer_fits_80_columns_whole(self, folder: Path, asked: Asked, by: By) -> None:
        told = ask(folder, asked, by)
        lines = printed(told)
        text = "\n".join(lines)
        assert max(map(len, lines)) <= 80
        assert "…" not in text
        assert f"all {told.groups} {by}s" in text
        assert "From 1 batch(es) of 6 lines" in text
        assert "newest event, 2022-11-14 12:00:00" in text

    def test_figures_are_written_for_people(self, folder: Path) -> None:
        text = "\n".join(printed(ask(folder, Asked.REJECTS, By.HOUR)))
        assert "2022-11-14 12h" in text
        assert "100.0%" in text
        assert "bad-time 2, empty 1" in text
        assert "99,999" in "\n".join(printed(ask(folder, Asked.REQUESTS, By.USER)))

    def test_a_time_without_anything_says_so(self, folder: Path) -> None:
        lines = printed(ask(folder, Asked.RATINGS, By.HOUR, since=at(600), until=at(660)))
        assert "There was nothing of it in that time." in lines

    @pytest.mark.parametrize(("asked", "by"), EVERYTHING)
    def test_csv_has_every_group_and_figure(self, folder: Path, asked: Asked, by: By) -> None:
        told = ask(folder, asked, by)
        rows = list(csv.DictReader(io.StringIO(show.as_csv(told))))
        assert [set(row) for row in rows] == [{by.value, *told.total}] * told.groups
        if by is By.HOUR:
            assert [row["hour"] for row in rows] == [NOON.isoformat()]


def printed(told: Answer) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(show.answer(told))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


MINUTES = st.integers(0, 300)
USERS = st.integers(1, 4)
MOVIES = st.sampled_from(["heat+1995", "big+1988", "alien+1979"])
WATCHES = st.builds(Watch, MINUTES.map(at), USERS, MOVIES, st.integers(0, 5))
RATINGS = st.builds(Rating, MINUTES.map(at), USERS, MOVIES, st.integers(1, 5))


@settings(max_examples=25, deadline=None)
@given(st.lists(WATCHES | RATINGS, min_size=1, max_size=30), st.integers(1, 30))
def test_all_groupings_have_the_same_total(events: list[Watch | Rating], batch_lines: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "batches"
        log = folder.parent / "day.log"
        # Each line once: the same line twice in a batch is one event, in two batches it is two.
        log.write_text("".join(f"{event.line()}\n" for event in dict.fromkeys(events)))
        collect(FileSource(log), folder, batch_lines=batch_lines)
        ratings = Counter(type(event) for event in set(events))[Rating]
        for by in QUESTIONS[Asked.RATINGS].keys:
            told = ask(folder, Asked.RATINGS, by)
            assert told.total["ratings"] == ratings == total(told.rows, "ratings")
            assert ratings == sum(total(told.rows, f"stars_{stars}") for stars in range(1, 6))
        viewings = len({(event.user_id, event.movie_id) for event in events if isinstance(event, Watch)})
        minutes = set()
        for by in QUESTIONS[Asked.WATCHED].keys:
            told = ask(folder, Asked.WATCHED, by)
            minutes |= {told.total["minutes"], total(told.rows, "minutes")}
            assert told.total["viewings"] == viewings
            assert by is By.HOUR or total(told.rows, "viewings") == viewings
        assert len(minutes) == 1


def total(rows: list[Row], name: str) -> int:
    return sum(row[name] for row in rows)
