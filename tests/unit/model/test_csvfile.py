import csv
import gzip

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.errors import DataError
from pipelines.model import csvfile

HEADER = "user_id,movie_id,rating,timestamp"
IDS = st.text(st.characters(exclude_characters=",\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
TEXTS = ("u", "007", "é", " ", "", '"m"', 'a"b', "\0", "\r", "NA", "\x1c", "\u2028", "u" * 1_020, "u" * 1_021)
NUMBERS = (
    "3",
    "3.5",
    " 4\t",
    "+1",
    "1e1",
    "1_0",
    "٣",
    "0x1",
    "nan",
    "inf",
    "1e39",
    "1e400",
    "-0.5",
    "60.9",
    "9" * 12,
)
FIELDS = st.sampled_from(TEXTS + NUMBERS)
LINES = st.lists(FIELDS, min_size=3, max_size=5).map(",".join)


@pytest.fixture
def load(tmp_path):
    """Write bytes or text to a CSV and load it; rows as tuples."""

    def write_and_load(text, name="ratings.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(csvfile.read(path).itertuples(index=False, name=None))

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
    loaded = csvfile.read(path)
    assert list(zip(loaded["user_id"], loaded["movie_id"], strict=True)) == pairs


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
        ("u,m,1e39,4", "line 3: rating is '1e39', wanted a number"),
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
        ("\x1b[2J" + "x" * 500 + "\n", r"found '\\x1b\[2Jx{76}'; correct: user_id"),
    ],
)
def test_a_header_without_a_wanted_column_is_refused(load, header, message):
    with pytest.raises(DataError, match=f"line 1: wanted exactly one column each of .*{message}"):
        load(header)


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"text", "r.csv.gz"), (gzip.compress(b"x" * 99)[:-9], "s.csv.gz")],
    ids=["text", "torn"],
)
def test_a_file_that_is_no_archive_is_refused(load, content, name):
    with pytest.raises(DataError, match="cannot be read"):
        load(content, name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"nothing\.csv cannot be read .*; name a CSV file or a folder of batches"
    ):
        csvfile.read(tmp_path / "nothing.csv")


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(LINES | st.just("u,m,3,4") | st.sampled_from(["", " "]), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    header=st.sampled_from([HEADER, HEADER.replace("rating", '"rating"'), f"{HEADER},x,x", "x"]),
)
@example(lines=["u,m,3,4"] * 3, end="\n", header=HEADER)
def test_what_is_read_at_once_is_what_is_read_line_by_line(tmp_path_factory, lines, end, header):
    path = tmp_path_factory.mktemp("csv") / "ratings.csv"
    path.write_bytes(end.join([header, *lines]).encode())
    at_once = csvfile._read_plain(path)
    if at_once is not None:
        assert at_once.equals(csvfile._read_lines(path))


@pytest.mark.parametrize("header", [HEADER, '"timestamp","user_id","title","movie_id","rating"'])
def test_a_plain_file_is_read_at_once(header, tmp_path, monkeypatch):
    monkeypatch.setattr(csvfile, "_read_lines", None)
    path = tmp_path / "ratings.csv.gz"
    names = [name.strip('"') for name in header.split(",")]
    values = {"user_id": "u", "movie_id": "m", "rating": "3.3", "timestamp": "60.9", "title": "Alien"}
    line = ",".join(values[name] for name in names)
    path.write_bytes(gzip.compress("\n".join([header, *[line] * 3]).encode()))
    rows = csvfile.read(path)
    assert rows.to_dict("list") == {
        "user_id": ["u"] * 3,
        "movie_id": ["m"] * 3,
        "rating": [pytest.approx(3.3)] * 3,
        "timestamp": [60] * 3,
    }
    assert rows.dtypes.astype(str).to_dict() == csvfile._TYPES


def test_a_long_file_with_quotes_is_read_in_parts(load, monkeypatch):
    monkeypatch.setattr(csvfile, "_LINES_AT_ONCE", 2)
    lines = "".join(f'"u{number}",m,3,{number}\n' for number in range(5))
    assert load(f"{HEADER}\n{lines}") == [(f"u{number}", "m", 3, number) for number in range(5)]
