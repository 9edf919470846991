import fcntl
import stat
import subprocess
import sys
from configparser import RawConfigParser

import pytest

from pipelines.errors import FleetError
from pipelines.release.fleet.supervisor import Supervisor, _locked


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(tmp_path / "a-folder-with-a-rather-long-name" / ("x" * 100), tmp_path / "logs")
    made.write_config()
    return made


def section(supervisor, name):
    config = RawConfigParser()
    config.read(supervisor.programs_dir / f"{name}.ini")
    return config[f"program:{name}"]


def test_socket_path_fits_however_deep_the_folder_is(supervisor):
    assert len(str(supervisor.socket_path)) < 108


def test_program_logs_to_its_own_file_and_is_restarted(supervisor):
    supervisor.write_program("nginx", {"command": "nginx"})
    program = section(supervisor, "nginx")
    assert program["stdout_logfile"] == str(supervisor.logs_dir / "nginx.log")
    assert program["autorestart"] == "true"


def test_percent_signs_are_not_expanded(supervisor):
    supervisor.write_program("x", {"command": "x", "environment": 'PASSWORD="50%off"'})
    assert section(supervisor, "x")["environment"] == 'PASSWORD="50%%off"'


def test_nobody_else_reads_a_programs_environment(supervisor):
    supervisor.write_program("x", {"command": "x"})
    mode = (supervisor.programs_dir / "x.ini").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_removing_a_program_twice_is_removing_it_once(supervisor):
    supervisor.write_program("x", {"command": "x"})
    supervisor.remove_program("x")
    supervisor.remove_program("x")
    assert not list(supervisor.programs_dir.iterdir())


def test_missing_supervisord_is_named_with_its_log(supervisor):
    with pytest.raises(FleetError, match="is the stack up"):
        supervisor.update()


def test_command_whose_caller_was_killed_keeps_others_out_until_it_ends(tmp_path):
    lock = tmp_path / "update.lock"
    with _locked(lock) as held:
        command = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,))
    with lock.open("w") as file, command:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        command.communicate(b"end\n")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
