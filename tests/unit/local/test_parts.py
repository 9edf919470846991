import re
from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.local import parts

APT = """
cp "$2" "$(dirname "$0")/apt.conf.seen"
[ "$4" = update ] && exit 100
[ "$4" = download ] && touch "$5_1.0_all.deb"
"""
DPKG = 'mkdir -p "$3/usr/bin" && touch "$3/usr/bin/prometheus" "$3/usr/bin/promtool"'


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SYSTEM_FOLDERS", ())


def test_prometheus_of_the_system_is_taken_first(tmp_path: Path, add_program) -> None:
    system = add_program("prometheus", "")
    assert parts.prometheus(tmp_path / "tools") == system
    assert not (tmp_path / "tools").exists()


def test_prometheus_is_unpacked_once_and_found_again(tmp_path: Path, add_program) -> None:
    # The update fails, as with one foreign source that does not answer; the package is had all the same.
    add_program("apt-get", APT)
    dpkg = add_program("dpkg", DPKG)
    first = parts.prometheus(tmp_path / "tools")
    dpkg.unlink()
    assert parts.prometheus(tmp_path / "tools") == first == tmp_path / "tools/prometheus/usr/bin/prometheus"
    assert first.with_name("promtool").exists()
    assert [path.name for path in (tmp_path / "tools").iterdir()] == ["prometheus"]


def test_apt_keeps_its_files_in_a_folder_of_ours_and_runs_no_hooks(tmp_path: Path, add_program) -> None:
    apt = add_program("apt-get", APT)
    add_program("dpkg", DPKG)
    parts.prometheus(tmp_path / "tools")
    configuration = apt.with_name("apt.conf.seen").read_text()
    for option in ("Dir::State", "Dir::State::lists", "Dir::Cache"):
        assert re.search(rf'^{option} "{tmp_path}/tools/\.prometheus-\w+/\w+";$', configuration, re.MULTILINE)
    assert "#clear APT::Update::Post-Invoke;" in configuration


@pytest.mark.parametrize("missing", ["apt-get", "dpkg"])
def test_a_machine_without_debian_tools_is_told_what_to_install(
    missing: str, tmp_path: Path, add_program
) -> None:
    for name in {"apt-get", "dpkg"} - {missing}:
        add_program(name, "")
    with pytest.raises(StackError, match=rf"no {missing} .*\n.*apt-get install prometheus"):
        parts.prometheus(tmp_path / "tools")


def test_a_download_that_fails_is_told_with_what_apt_said(tmp_path: Path, add_program) -> None:
    add_program("apt-get", 'echo "E: cannot $4" >&2; exit 100')
    add_program("dpkg", DPKG)
    with pytest.raises(StackError, match=r"(?s)ended with 100.*cannot update.*cannot download.*install"):
        parts.prometheus(tmp_path / "tools")
    assert list((tmp_path / "tools").iterdir()) == []


def test_a_package_without_the_program_is_told(tmp_path: Path, add_program) -> None:
    add_program("apt-get", APT)
    add_program("dpkg", 'mkdir -p "$3/usr/share"')
    with pytest.raises(StackError, match=r"prometheus_1.0_all.deb holds no usr/bin/prometheus"):
        parts.prometheus(tmp_path / "tools")


def test_a_server_that_never_answers_is_not_waited_for_without_end(
    tmp_path: Path, add_program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "APT_TIMEOUT_S", 0.05)
    add_program("apt-get", "exec sleep 60")
    add_program("dpkg", DPKG)
    with pytest.raises(StackError, match=r"apt-get did not end within 0\.05 s"):
        parts.prometheus(tmp_path / "tools")


def test_what_another_process_finished_first_is_kept(tmp_path: Path) -> None:
    for folder in ("mine", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "whose").write_text(folder)
    parts.move_into_place(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "theirs" / "whose").read_text() == "theirs"


def test_a_move_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OSError, match="No such file"):
        parts.move_into_place(tmp_path / "mine", tmp_path / "no" / "such" / "folder")
