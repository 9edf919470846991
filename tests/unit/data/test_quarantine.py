import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import quarantine
from pipelines.data.batches import Batch
from pipelines.data.quarantine import FILE, Quarantined, keeps, of, wholly
from pipelines.errors import DataError
from pipelines.settings import PROJECT_DIR

ADD_FIFTY = """
import json, sys
from dataclasses import replace
from pathlib import Path

from pipelines.data import quarantine

entry = quarantine.Quarantined.of_json(json.loads(sys.argv[2]))
print("begins", flush=True)
for offset in range(50):
    quarantine.add(Path(sys.argv[1]), replace(entry, first=offset, last=offset))
"""

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 15)).map(lambda pair: (pair[0], sum(pair))), max_size=6
)


def entry(first: int, last: int, **changes) -> Quarantined:
    return replace(Quarantined("movielog4", 1, 0, first, last, "a stuck client", "ann", NOON), **changes)


def batch(first: int, last: int, *, generation: int = 1, partition: int = 0) -> Batch:
    return Batch("movielog4", generation, partition, first, last, Path())


def rows(*lines: tuple[int, int | None], kind: str = "watch") -> pa.Table:
    """Rows by their first and last line."""
    fields = [("kind", pa.dictionary(pa.int32(), pa.string())), ("offset", pa.int64())]
    schema = pa.schema([*fields, ("last_offset", pa.int64())])
    return pa.Table.from_pylist(
        [{"kind": kind, "offset": one, "last_offset": last} for one, last in lines], schema
    )


class TestFile:
    def test_without_a_file_nothing_is_out(self, tmp_path: Path) -> None:
        assert quarantine.read(tmp_path) == []

    def test_what_was_taken_out_is_read_back_in_order(self, tmp_path: Path) -> None:
        entries = [entry(10, 19), entry(0, 4, why="Müll, größer"), entry(5, 5, partition=3, generation=2)]
        assert [quarantine.add(tmp_path, one) for one in entries] == [True, True, True]
        assert quarantine.read(tmp_path) == entries

    def test_the_same_range_is_out_once_and_the_first_reason_stands(self, tmp_path: Path) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        assert not quarantine.add(tmp_path, entry(10, 19, why="another", who="bob"))
        assert quarantine.read(tmp_path) == [entry(10, 19)]

    def test_what_was_lifted_is_back_and_the_file_says_by_whom(self, tmp_path: Path) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        quarantine.add(tmp_path, entry(30, 39))
        lifting = entry(10, 19, why="the client was right", who="bob", at=NOON.replace(hour=13))
        assert quarantine.lift(tmp_path, lifting) == entry(10, 19)
        assert quarantine.read(tmp_path) == [entry(30, 39)]
        assert quarantine.history(tmp_path) == [(entry(10, 19), lifting), (entry(30, 39), None)]

    def test_what_was_lifted_may_be_taken_out_again(self, tmp_path: Path) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        quarantine.lift(tmp_path, entry(10, 19))
        assert quarantine.add(tmp_path, entry(10, 19, why="it was wrong after all"))
        assert quarantine.read(tmp_path) == [entry(10, 19, why="it was wrong after all")]

    @pytest.mark.parametrize("wrong", [entry(10, 18), entry(10, 19, partition=1), entry(10, 19, topic="a")])
    def test_only_an_entry_as_a_whole_is_lifted(self, tmp_path: Path, wrong: Quarantined) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        with pytest.raises(DataError, match="in quarantine is: movielog4, partition 0, offsets 10 to 19"):
            quarantine.lift(tmp_path, wrong)

    @pytest.mark.parametrize(
        "text",
        ["", "[", "{}x", '["a"]', '{"a": 1}', "[{}]", '[{"topic": "a", "lifted": null}]'],
    )
    def test_a_damaged_file_is_an_error_and_stays(self, tmp_path: Path, text: str) -> None:
        (tmp_path / FILE).write_text(text)
        with pytest.raises(DataError, match="put it back from a backup or mend it"):
            quarantine.read(tmp_path)
        with pytest.raises(DataError):
            quarantine.add(tmp_path, entry(0, 9))
        assert (tmp_path / FILE).read_text() == text

    @pytest.mark.parametrize(
        ("was", "becomes"), [('"first": 10', '"first": 20'), ('"partition": 0', '"partition": "0"')]
    )
    def test_a_range_that_is_none_is_an_error(self, tmp_path: Path, was: str, becomes: str) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        path = tmp_path / FILE
        path.write_text(path.read_text().replace(was, becomes))
        with pytest.raises(DataError, match="names no range"):
            quarantine.read(tmp_path)

    def test_a_folder_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="mend the path or its permissions"):
            quarantine.add(tmp_path / "file", entry(0, 9))

    def test_two_people_at_once_lose_nothing(self, tmp_path: Path) -> None:
        others = entry(0, 0, who="bob").as_json()
        with subprocess.Popen(
            [sys.executable, "-c", ADD_FIFTY, str(tmp_path), json.dumps(others)],
            cwd=PROJECT_DIR,
            stdout=subprocess.PIPE,
        ) as bob:
            assert bob.stdout is not None
            assert bob.stdout.readline() == b"begins\n"
            for first in range(50, 100):
                quarantine.add(tmp_path, entry(first, first))
        assert bob.returncode == 0
        assert sorted(one.first for one in quarantine.read(tmp_path)) == list(range(100))

    def test_half_a_file_that_a_kill_left_is_not_read(self, tmp_path: Path) -> None:
        quarantine.add(tmp_path, entry(10, 19))
        (tmp_path / f".{FILE}.tmp").write_text('[{"topic"')
        assert quarantine.read(tmp_path) == [entry(10, 19)]
        assert quarantine.add(tmp_path, entry(20, 29))


class TestRanges:
    def test_of_a_batch_only_its_own_offsets_are_out(self) -> None:
        assert of(batch(100, 199), [entry(0, 99), entry(150, 300), entry(200, 200)]) == [(150, 199)]

    def test_ranges_that_touch_are_one(self) -> None:
        assert of(batch(0, 99), [entry(20, 29), entry(10, 19), entry(15, 22), entry(31, 31)]) == [
            (10, 29),
            (31, 31),
        ]

    @pytest.mark.parametrize("other", [{"partition": 1}, {"generation": 2}])
    def test_other_partitions_and_generations_are_not_touched(self, other: dict[str, int]) -> None:
        assert of(batch(0, 99, **other), [entry(0, 99)]) == []

    def test_a_batch_is_wholly_out_when_ranges_cover_it_together(self) -> None:
        assert wholly(batch(0, 99), [entry(50, 120), entry(0, 49)])
        assert not wholly(batch(0, 99), [entry(51, 120), entry(0, 49)])

    @given(RANGES)
    def test_exactly_the_offsets_of_the_entries_are_out(self, ranges: list[tuple[int, int]]) -> None:
        out = of(batch(10, 30), [entry(*one) for one in ranges])
        named = {offset for first, last in ranges for offset in range(first, last + 1)}
        assert [offset for first, last in out for offset in range(first, last + 1)] == sorted(
            named & set(range(10, 31))
        )
        assert all(before[1] + 1 < behind[0] for before, behind in pairwise(out))


class TestRows:
    def test_a_line_stays_when_it_is_not_out(self) -> None:
        table = rows((9, None), (10, None), (19, None), (20, None), kind="rating")
        assert keeps(table, [(10, 19)], 99).to_pylist() == [True, False, False, True]

    def test_a_viewing_goes_as_a_whole(self) -> None:
        table = rows((0, 9), (0, 10), (0, 40), (12, 13), (19, 30), (20, 30))
        assert keeps(table, [(10, 19)], 99).to_pylist() == [True, False, False, False, False, True]

    def test_a_viewing_that_does_not_know_its_last_line_may_reach_to_the_end_of_its_batch(self) -> None:
        table = rows((0, None), (20, None))
        assert keeps(table, [(10, 19)], 99).to_pylist() == [False, True]
        assert keeps(table, [(10, 19)], 9).to_pylist() == [True, True]

    def test_without_a_range_everything_stays(self) -> None:
        assert keeps(rows((0, 9), (5, None)), [], 99).to_pylist() == [True, True]
        assert keeps(rows(), [(0, 9)], 99).to_pylist() == []

    def test_tables_of_several_chunks_are_taken(self) -> None:
        table = pa.concat_tables([rows((0, 1)), rows((5, None), kind="request")])
        assert keeps(table, [(5, 6)], 99).to_pylist() == [True, False]

    @given(RANGES, RANGES)
    def test_it_is_what_comparing_with_each_range_says(
        self, lines: list[tuple[int, int]], ranges: list[tuple[int, int]]
    ) -> None:
        out = of(batch(0, 60), [entry(*one) for one in ranges])
        assert keeps(rows(*lines), out, 60).to_pylist() == [
            not any(first <= one_last and one <= last for one, one_last in out) for first, last in lines
        ]
