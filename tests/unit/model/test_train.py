import csv
import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import batches
from pipelines.errors import DataError, ModelError
from pipelines.model import artifact
from pipelines.model.evaluate import evaluate
from pipelines.model.train import load_ratings, load_viewings, train

HEADER = "user_id,movie_id,rating,timestamp"
IDS = st.text(st.characters(exclude_characters=",\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def load(tmp_path):
    """Write bytes or text to a CSV and load it; rows as tuples."""

    def write_and_load(text, name="ratings.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(load_ratings(path).itertuples(index=False, name=None))

    return write_and_load


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n007,a+1999,3.5,60\n",
        f"{HEADER}\n007,a+1999,3.5,60",
        f"{HEADER}\r\n007,a+1999,3.5,60\r\n",
        f"\ufeff{HEADER}\n007,a+1999,3.5,60\n",
        f"{HEADER}\n\n007,a+1999,3.5,60\n\n",
        "timestamp, rating ,title,movie_id,user_id\n60.9,3.5e0,what,a+1999,007\n",
        f'{HEADER}\n"007","a+1999","3.5"," 60 "\n',
    ],
)
def test_a_rating_is_read_in_every_dress(load, text):
    assert load(text) == [("007", "a+1999", 3.5, 60)]


def test_ids_that_look_like_nothing_stay_text(load):
    rows = load(f'{HEADER}\nNA,null,1,1\nnan,1e5,2,2\n ,"""",3,3\n0x10,True,4,4\n')
    assert [row[:2] for row in rows] == [("NA", "null"), ("nan", "1e5"), (" ", '"'), ("0x10", "True")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=20, unique=True))
def test_any_text_without_comma_is_an_id(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("csv") / "ratings.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        writer.writerows([*pair, 3, place] for place, pair in enumerate(pairs))
    loaded = load_ratings(path)
    assert list(zip(loaded["user_id"], loaded["movie_id"], strict=True)) == pairs


def test_rows_come_in_order_of_time_user_and_movie(load):
    rows = load(f"{HEADER}\nb,x,1,9\na,y,2,9\na,x,3,9\nc,x,4,1\n")
    assert [row[:2] for row in rows] == [("c", "x"), ("a", "x"), ("a", "y"), ("b", "x")]


def test_all_ratings_of_a_movie_come_in_the_order_of_time_then_of_lines(load):
    assert load(f"{HEADER}\nu,m,1,20\nu,m,2,10\nv,m,3,5\nv,m,4,5\n") == [
        ("v", "m", 3, 5),
        ("v", "m", 4, 5),
        ("u", "m", 2, 10),
        ("u", "m", 1, 20),
    ]


def test_a_file_with_a_header_only_has_no_ratings(load):
    assert load(HEADER) == []


def test_a_compressed_file_is_read(load):
    assert load(gzip.compress(f"{HEADER}\nu,m,1,2".encode()), "ratings.csv.gz") == [("u", "m", 1, 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,m,3", "line 3: 3 fields, the header has 4"),
        ("u,m,3,4,5", "line 3: 5 fields, the header has 4"),
        (",m,3,4", "line 3: user_id is '', wanted 1 to 1020 bytes of UTF-8 without comma"),
        ("u,,3,4", "line 3: movie_id is ''"),
        ('u,"a,b",3,4', "line 3: movie_id is 'a,b'"),
        ('"u\nv",m,3,4', "line 4: user_id is 'u\\\\nv'"),
        ("u\0,m,3,4", "line 3: user_id is 'u\\\\x00'"),
        ("u" * 1_021 + ",m,3,4", "line 3: user_id is 'uuu"),
        ("u,m,good,4", "line 3: rating is 'good', wanted a number"),
        ("u,m,,4", "line 3: rating is '', wanted a number"),
        ("u,m,nan,4", "line 3: rating is 'nan', wanted a number"),
        ("u,m,-inf,4", "line 3: rating is '-inf', wanted a number"),
        ("u,m,3,", "line 3: timestamp is '', wanted a number"),
        ("u,m,3,2020-01-01", "line 3: timestamp is '2020-01-01', wanted a number"),
        ("u,m,3,-1", "line 3: timestamp is '-1', wanted seconds since 1970"),
        ("u,m,3,1600000000000", "line 3: timestamp is '1600000000000', wanted seconds since 1970"),
        ('u,"m"x,3,4', "line 3: ',' expected after '\"'"),
        ('u,"m,3,4', "line 4: unexpected end of data"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(load, line, message):
    with pytest.raises(DataError, match=f"ratings.csv, {message}"):
        load(f"{HEADER}\nu,a,1,1\n{line}\nu,b,1,1\n")


def test_bytes_that_are_not_utf8_are_named_by_line(load):
    with pytest.raises(DataError, match=r"line 3: movie_id is 'm\\udcff'"):
        load(f"{HEADER}\nu,a,1,1\nu,m".encode() + b"\xff,3,4\n")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "found nothing; correct: user_id, movie_id, rating, timestamp"),
        ("user_id,movie_id,rating\n", "found user_id, movie_id, rating; correct: timestamp"),
        ("user_id,movie_id,rating,timestamp,rating\n", "correct: rating"),
        ("u,m,3,4\n", "correct: user_id, movie_id, rating, timestamp"),
    ],
)
def test_a_header_without_a_wanted_column_is_refused(load, header, message):
    with pytest.raises(DataError, match=f"line 1: wanted exactly one column each of .*{message}"):
        load(header)


@pytest.mark.parametrize(
    ("content", "name"), [(b"text", "r.csv.gz"), (gzip.compress(b"x" * 99)[:-9], "s.csv.gz")]
)
def test_a_file_that_is_no_archive_is_refused(load, content, name):
    with pytest.raises(DataError, match="cannot be read"):
        load(content, name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"nothing\.csv cannot be read .*; name a CSV file or a folder of batches"
    ):
        load_ratings(tmp_path / "nothing.csv")


def test_a_folder_is_read_as_batches(tmp_path, monkeypatch):
    assert load_ratings(tmp_path).empty
    monkeypatch.setattr("pipelines.model.train.read_viewings", lambda folder: ("viewings of", folder))
    assert load_viewings(tmp_path) == ("viewings of", tmp_path)
    assert load_viewings(tmp_path / "ratings.csv") is None
    assert list(load_ratings(tmp_path).columns) == list(batches.read_ratings(tmp_path).columns)


def test_training_twice_gives_the_same_files(two_camps, tmp_path, config):
    for name in ("one", "two"):
        train(
            two_camps,
            None,
            tmp_path / name,
            config=config,
            scale=(1, 5),
            judge=None,
            provenance={"batches": ["b1"]},
            trained_on=NOON,
        )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_only_the_time_of_training_differs_by_itself(two_camps, tmp_path, config):
    metas = [
        train(two_camps, None, tmp_path / "m", config=config, scale=None, judge=None, provenance={})
        for _ in "12"
    ]
    times = [datetime.fromisoformat(meta.pop("trained_on")) for meta in metas]
    assert metas[0] == metas[1]
    assert times[0] <= times[1] <= datetime.now(UTC)


def test_model_json_says_where_the_model_comes_from(make_ratings, make_viewings, tmp_path, config):
    ratings = make_ratings([("u", "a", 2, 60), ("u", "b", 4, 120), ("v", "a", 3, 90)])
    judged = evaluate(ratings, None, config=config, holdout_share=0.1, serving=None)
    meta = train(
        ratings,
        make_viewings([("w", "c"), ("w", "a"), ("u", "a")]),
        tmp_path / "m",
        config=config,
        scale=None,
        judge=judged,
        provenance={"offsets": {"0": [0, 99]}},
        trained_on=NOON.astimezone(timezone(timedelta(hours=2))),
    )
    assert artifact.load(tmp_path / "m", verify=True).meta == meta
    assert meta["version"] is None
    assert meta["trained_on"] == "2026-03-01T12:00:00+00:00"
    assert meta["data_creation"] == "1970-01-01T00:02:00+00:00"
    assert meta["seed"] == meta["config"]["seed"] == 20
    assert (meta["scale"], meta["mean"]) == ([2.0, 4.0], 3.0)
    assert meta["provenance"] == {"offsets": {"0": [0, 99]}}
    assert meta["metrics"]["rmse"] is None, "three ratings leave none to hold out, and JSON has no NaN"
    assert set(meta["libraries"]) == {"python", "numpy", "pandas", "scikit-surprise", "scipy"}
    assert meta["counts"] == {
        "users": 3,
        "raters": 2,
        "movies": 3,
        "ratings": 3,
        "viewings": 3,
        "interactions": 3 + 2,
        "ranker_rank": 1,
    }


def test_nothing_is_written_when_there_is_nothing_to_train_on(make_ratings, tmp_path, config):
    with pytest.raises(DataError, match="no ratings to train on"):
        train(make_ratings([]), None, tmp_path / "m", config=config, scale=None, judge=None, provenance={})
    assert not list(tmp_path.iterdir())


def test_an_id_that_cannot_be_stored_is_an_error(make_ratings, tmp_path, config):
    with pytest.raises(ModelError, match="cannot be stored"):
        train(
            make_ratings([("u\0", "m", 3)]),
            None,
            tmp_path / "m",
            config=replace(config, svd_epochs=1),
            scale=None,
            judge=None,
            provenance={},
        )
