from datetime import datetime
from threading import Event, Thread

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError

from pipelines.errors import SettingsError
from pipelines.records import recorder
from pipelines.records.database import migrate
from pipelines.records.recorder import run, ship_once
from pipelines.records.tables import lost_receipts, reccom, spools
from tests.receipts import GONE_PID, as_line, line, loss, receipt, row


@pytest.fixture
def live(spool_dir):
    """The file of a worker that has it open."""
    path = spool_dir / f"stable-1-{GONE_PID}-100.jsonl"
    with path.open("ab"):
        yield path


@pytest.fixture
def orphan(spool_dir):
    return spool_dir / f"stable-1-{GONE_PID}-100.jsonl"


def append(file, *lines):
    with file.open("ab") as opened:
        opened.writelines(lines)


def shipped_ids(engine):
    with engine.connect() as connection:
        return sorted(connection.scalars(select(reccom.c.request_id)))


def shipped_bytes(engine):
    with engine.connect() as connection:
        return {row.file: row.shipped_bytes for row in connection.execute(select(spools))}


def test_receipt_arrives_with_every_field(engine, spool_dir, live):
    append(live, line("a"))
    assert ship_once(engine, spool_dir) == 1
    with engine.connect() as connection:
        (arrived,) = connection.execute(select(reccom)).mappings()
    assert arrived == receipt("a") | {"served_at": datetime(2026, 3, 2, 10, 0, 0, 250_000)}


def test_receipt_of_a_replica_that_knows_no_folding_in_arrives(engine, spool_dir, live):
    old = receipt("a")
    del old["watched"]
    append(live, as_line(old), line("b", watched="brazil+1985"))
    assert ship_once(engine, spool_dir) == 2
    with engine.connect() as connection:
        watched = connection.scalars(select(reccom.c.watched).order_by(reccom.c.request_id)).all()
    assert watched == ["", "brazil+1985"]


def test_loss_is_kept_once_told_once_and_no_receipt(engine, spool_dir, live, caplog):
    append(live, line("a"), loss(7), line("b"), loss(7, replica="stable-2"))
    assert ship_once(engine, spool_dir) == 2
    append(live, loss(7))
    assert ship_once(engine, spool_dir) == 0
    with engine.connect() as connection:
        kept = connection.execute(select(lost_receipts).order_by(lost_receipts.c.replica)).all()
    since, until = datetime(2026, 3, 2, 10, 0, 0, 1), datetime(2026, 3, 2, 10, 5)
    assert [each[1:] for each in kept] == [("stable-1", since, until, 7), ("stable-2", since, until, 7)]
    assert "replica stable-1 lost 7 receipt(s) from 2026-03-02 10:00:00.000001" in caplog.text


def test_shipping_again_ships_nothing(engine, spool_dir, live):
    append(live, line("a"), line("b"))
    assert [ship_once(engine, spool_dir), ship_once(engine, spool_dir)] == [2, 0]
    assert shipped_ids(engine) == ["a", "b"]


def test_what_is_appended_later_is_shipped_next_time(engine, spool_dir, live):
    append(live, line("a"))
    ship_once(engine, spool_dir)
    append(live, line("b"))
    assert ship_once(engine, spool_dir) == 1
    assert shipped_ids(engine) == ["a", "b"]


def test_line_that_is_still_being_written_waits_for_its_end(engine, spool_dir, live):
    whole = line("b")
    append(live, line("a"), whole[:40])
    assert ship_once(engine, spool_dir) == 1
    append(live, whole[40:])
    assert ship_once(engine, spool_dir) == 1
    assert shipped_ids(engine) == ["a", "b"]


def test_no_spool_folder_is_nothing_to_ship(engine, tmp_path):
    assert ship_once(engine, tmp_path / "missing") == 0


def test_other_files_in_the_folder_are_left_alone(engine, spool_dir):
    append(spool_dir / "notes.txt", b"hands off")
    append(spool_dir / ".stable-1-5-100.jsonl.tmp", line("a"))
    assert ship_once(engine, spool_dir) == 0
    assert len(list(spool_dir.iterdir())) == 2


def test_time_with_another_zone_is_stored_in_utc(engine, spool_dir, live):
    append(live, line("a", served_at="2026-03-02T10:00:00-05:00"))
    ship_once(engine, spool_dir)
    with engine.connect() as connection:
        assert connection.scalar(select(reccom.c.served_at)) == datetime(2026, 3, 2, 10 + 5)


def test_each_attempt_of_a_request_is_kept(engine, spool_dir, live):
    append(live, line("a", replica="stable-1"))
    append(spool_dir / f"stable-2-{GONE_PID}-100.jsonl", line("a", replica="stable-2"))
    ship_once(engine, spool_dir)
    assert shipped_ids(engine) == ["a", "a"]


def test_a_line_that_comes_twice_is_kept_once(engine, spool_dir, live):
    append(live, line("a"))
    append(spool_dir / f"stable-2-{GONE_PID}-100.jsonl", line("a"))
    ship_once(engine, spool_dir)
    assert shipped_ids(engine) == ["a"]


def test_file_larger_than_a_chunk_is_shipped_whole(engine, spool_dir, live, monkeypatch):
    monkeypatch.setattr(recorder, "CHUNK_BYTES", 3 * len(line("000")) + 1)
    append(live, *(line(f"{number:03d}") for number in range(100)))
    assert ship_once(engine, spool_dir) == 100
    assert shipped_bytes(engine) == {live.stem: 100 * len(line("000"))}


@pytest.mark.parametrize("bad", [b"{not json}\n", line("x" * 65), loss(0)])
def test_malformed_line_is_logged_and_skipped(engine, spool_dir, live, caplog, bad):
    append(live, line("a"), bad, line("b"))
    assert ship_once(engine, spool_dir) == 2
    assert shipped_ids(engine) == ["a", "b"]
    (record,) = caplog.records
    assert "skipped 1 line(s)" in record.getMessage()
    assert str(live) in record.getMessage()
    assert ship_once(engine, spool_dir) == 0, "a skipped line must not be read again"


def test_endless_line_does_not_block_its_file(engine, spool_dir, live, monkeypatch):
    monkeypatch.setattr(recorder, "CHUNK_BYTES", 2 * len(line("a")))
    append(live, b"x" * 5 * len(line("a")) + b"\n", line("a"))
    assert ship_once(engine, spool_dir) == 1


def test_overlong_user_id_is_cut_and_kept(engine, spool_dir, live):
    append(live, line("a", user_id="9" * 300))
    ship_once(engine, spool_dir)
    with engine.connect() as connection:
        assert connection.scalar(select(reccom.c.user_id)) == "9" * 255


# --- the end of a file --------------------------------------------------------------------------


def test_file_of_a_live_writer_is_kept(engine, spool_dir, live):
    append(live, line("a"))
    ship_once(engine, spool_dir)
    assert live.exists()
    assert shipped_bytes(engine) == {live.stem: len(line("a"))}


def test_file_of_a_writer_that_has_gone_is_deleted_when_shipped(engine, spool_dir, orphan):
    append(orphan, line("a"))
    assert ship_once(engine, spool_dir) == 1
    assert not orphan.exists()
    assert shipped_bytes(engine) == {}


def test_file_that_somebody_still_writes_is_kept_though_its_process_seems_gone(engine, spool_dir, orphan):
    with orphan.open("ab", buffering=0) as writer:
        writer.write(line("a"))
        assert ship_once(engine, spool_dir) == 1
        writer.write(line("b"))
    assert ship_once(engine, spool_dir) == 1
    assert shipped_ids(engine) == ["a", "b"]
    assert not orphan.exists()


def test_file_sealed_in_between_goes_on_where_it_was(engine, spool_dir, live):
    append(live, line("a"))
    ship_once(engine, spool_dir)
    append(live, line("b"))
    sealed = live.rename(live.with_suffix(".done"))
    assert ship_once(engine, spool_dir) == 1
    assert shipped_ids(engine) == ["a", "b"]
    assert not sealed.exists()
    assert shipped_bytes(engine) == {}


def test_torn_last_line_of_a_killed_writer_is_logged_not_kept_for_ever(engine, spool_dir, orphan, caplog):
    append(orphan, line("a"), line("b")[:-20])
    assert ship_once(engine, spool_dir) == 1
    assert not orphan.exists()
    assert "skipped 1 line(s)" in caplog.text


def test_last_line_that_only_lacks_its_end_is_shipped(engine, spool_dir, orphan):
    append(orphan, line("a"), line("b").rstrip())
    assert ship_once(engine, spool_dir) == 2
    assert shipped_ids(engine) == ["a", "b"]


def test_empty_file_of_a_writer_that_has_gone_is_deleted(engine, spool_dir, orphan):
    orphan.touch()
    ship_once(engine, spool_dir)
    assert not orphan.exists()


def test_file_that_cannot_be_read_does_not_hold_up_the_others(engine, spool_dir):
    (spool_dir / f"a-{GONE_PID}-1.jsonl").mkdir()
    append(spool_dir / f"b-{GONE_PID}-1.jsonl", line("b"))
    with pytest.raises(IsADirectoryError):
        ship_once(engine, spool_dir)
    assert shipped_ids(engine) == ["b"]


# --- when the database is away ----------------------------------------------------------------------


def test_rows_and_position_are_written_together_or_not_at_all(engine, spool_dir, orphan, monkeypatch):
    def unplugged(*_):
        raise OperationalError("upsert", {}, ConnectionError("unplugged"))

    append(orphan, line("a"))
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "upsert", unplugged)
        with pytest.raises(OperationalError):
            ship_once(engine, spool_dir)
    assert shipped_ids(engine) == []
    assert orphan.exists()
    assert ship_once(engine, spool_dir) == 1
    assert shipped_ids(engine) == ["a"]


class Pauses(Event):
    """Stands for the stop event: notes the pauses, does something at the n-th, and then stops."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)
        self.taken = []

    def wait(self, timeout=None):
        self.taken.append(timeout)
        if self.steps:
            self.steps.pop(0)()
        if not self.steps:
            self.set()
        return self.is_set()


def nothing():
    pass


def test_recorder_ships_until_stopped_and_once_more(url, engine, spool_dir, live):
    append(live, line("a"))
    run(url, spool_dir, 0.5, Pauses(nothing, lambda: append(live, line("b"))))
    assert shipped_ids(engine) == ["a", "b"]


def test_recorder_stops_when_told(url, engine, spool_dir):
    stop = Event()
    thread = Thread(target=run, args=(url, spool_dir, 60.0, stop))
    thread.start()
    stop.set()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_outage_is_logged_once_and_pauses_grow_to_the_longest(tmp_path, spool_dir, live, caplog, opened):
    append(live, line("a"))
    url = f"sqlite:///{tmp_path}/not/there/records.db"
    pauses = Pauses(*[nothing] * 6, lambda: migrate(url), nothing)
    run(url, spool_dir, 0.5, pauses)
    assert pauses.taken[:7] == [0.5 * 2, 0.5 * 4, 0.5 * 8, 0.5 * 16, 10.0, 10.0, 10.0]
    assert pauses.taken[7:] == [0.5, 0.5]
    assert [record.levelname for record in caplog.records if record.name == recorder.__name__] == [
        "ERROR",
        "WARNING",
    ]
    assert "unable to open database file" in caplog.text
    assert shipped_ids(opened(url)) == ["a"]


def test_heart_beats_only_when_all_is_shipped(tmp_path, spool_dir, live):
    append(live, line("a"))
    url, beats = f"sqlite:///{tmp_path}/not/there/records.db", []
    pauses = Pauses(nothing, nothing, lambda: migrate(url), nothing)
    run(url, spool_dir, 0.5, pauses, lambda: beats.append(len(pauses.taken)))
    assert beats == [3, 4]  # after so many pauses: two tries in vain, and the one during which it came back


def test_each_outage_is_logged(tmp_path, url, engine, spool_dir, live, caplog):
    append(live, line("a"))
    database, away = tmp_path / "records.db", tmp_path / "away.db"

    def unplug():
        database.rename(away)
        database.mkdir()

    def plug():
        database.rmdir()
        away.rename(database)

    engine.dispose()
    unplug()
    run(url, spool_dir, 0.5, Pauses(nothing, plug, nothing, nothing))
    assert [record.levelname for record in caplog.records if record.name == recorder.__name__] == [
        "ERROR",
        "WARNING",
    ]
    assert shipped_ids(engine) == ["a"]


def test_outage_does_not_put_receipts_or_passwords_in_the_log(
    url, engine, spool_dir, live, caplog, monkeypatch
):
    def unplugged(*_):
        raise OperationalError("insert", [receipt("a")], ConnectionError("unplugged"))

    append(live, line("a"))
    monkeypatch.setattr(recorder, "upsert", unplugged)
    run(url, spool_dir, 0.5, Pauses(nothing))
    assert "unplugged" in caplog.text
    assert "fight+club" not in caplog.text


def test_address_that_can_never_work_stops_the_recorder(spool_dir):
    with pytest.raises(SettingsError):
        run("nonsense", spool_dir, 0.5, Pauses(nothing))


def test_row_of_the_same_key_is_left_as_it_is(engine, spool_dir, live):
    with engine.begin() as connection:
        connection.execute(insert(reccom).values(row("a", source="popular")))
    append(live, line("a"), line("b"))
    ship_once(engine, spool_dir)
    with engine.connect() as connection:
        sources = connection.scalars(select(reccom.c.source).order_by(reccom.c.request_id)).all()
    assert sources == ["popular", "personal"]
