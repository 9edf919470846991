from pipelines.records import unshipped as module
from pipelines.records.spool import spool_files
from pipelines.records.unshipped import unshipped
from tests.receipts import GONE_PID, line, loss, row

KEY = f"stable-1-{GONE_PID}-1"


def write(spool_dir, *lines):
    file = spool_dir / f"{KEY}.jsonl"
    file.write_bytes(b"".join(lines))
    return file


def test_no_spool_has_nothing(tmp_path):
    assert list(unshipped(tmp_path / "missing", {})) == []


def test_what_stands_behind_the_shipped_bytes_is_read(spool_dir):
    write(spool_dir, line("a"), line("b"))
    assert list(unshipped(spool_dir, {})) == [row("a"), row("b")]
    assert list(unshipped(spool_dir, {KEY: len(line("a"))})) == [row("b")]


def test_half_a_line_rubbish_and_losses_are_passed_over(spool_dir):
    write(spool_dir, b"rubbish\n", loss(), line("a"), line("b")[:-20])
    assert list(unshipped(spool_dir, {})) == [row("a")]


def test_only_lines_that_hold_the_text_are_read(spool_dir):
    write(spool_dir, line("a", user_id='"\\é'), line("b"), line('"\\é'))
    assert list(unshipped(spool_dir, {}, holding='"\\é')) == [row("a", user_id='"\\é'), row('"\\é')]


def test_file_that_cannot_be_read_is_a_warning(spool_dir, caplog):
    (spool_dir / "stable-1-7-1.jsonl").mkdir()
    write(spool_dir, line("a"))
    assert list(unshipped(spool_dir, {})) == [row("a")]
    assert "its receipts were not looked at" in caplog.text


def test_file_that_was_sealed_since_the_folder_was_listed_is_read(spool_dir, monkeypatch):
    file = write(spool_dir, line("a"))
    listed = spool_files(spool_dir)
    monkeypatch.setattr(module, "spool_files", lambda _: listed)
    file.rename(file.with_suffix(".done"))
    assert list(unshipped(spool_dir, {})) == [row("a")]


def test_file_that_was_shipped_since_the_folder_was_listed_is_passed_over(spool_dir, monkeypatch):
    file = write(spool_dir, line("a"))
    listed = spool_files(spool_dir)
    monkeypatch.setattr(module, "spool_files", lambda _: listed)
    file.unlink()
    assert list(unshipped(spool_dir, {})) == []
