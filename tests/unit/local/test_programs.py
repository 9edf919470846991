import sys
from pathlib import Path

from pipelines.local import programs
from pipelines.settings import PROJECT_DIR


def test_a_program_runs_in_the_project_with_its_variables():
    section = programs.program(["a b", "c"], {"X": "1", "Y": "2"}, stopsignal="QUIT")
    assert section == {
        "command": "'a b' c",
        "directory": str(PROJECT_DIR),
        "stopsignal": "QUIT",
        "environment": 'X="1",Y="2"',
    }


def test_our_own_programs_are_commands_of_the_shell():
    section = programs.ours("follow", stopwaitsecs="3")
    assert section["command"] == f"{sys.executable} -m pipelines follow"
    assert section["stopwaitsecs"] == "3"


def test_receipts_are_shown_to_this_machine_only():
    command = programs.receipts(8094)["command"]
    assert "--bind=127.0.0.1:8094" in command
    assert Path(command.split()[0]).name == "gunicorn"
