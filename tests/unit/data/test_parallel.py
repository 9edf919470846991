import os
import subprocess
import sys
from pathlib import Path

from pipelines.data import parallel
from pipelines.settings import PROJECT_DIR

PROGRAM = """
import operator

from pipelines.data import parallel

if __name__ != "__main__":
    raise SystemExit("nobody is to run this again")
print(parallel.run(operator.is_, [1, 2, 3], 2, print))
"""


def count(last: int, tell: parallel.Tell) -> int:
    for number in range(last + 1):
        tell(number)
    return last


def test_what_a_job_tells_last_is_always_passed_on() -> None:
    told: list[tuple[int, int]] = []
    jobs = [20_000, 7, 0]
    assert parallel.run(count, jobs, 2, lambda number, far: told.append((number, far))) == jobs
    # Later pairs of a job win.
    assert dict(sorted(told)) == dict(enumerate(jobs))
    assert len(told) < 20_000


def test_processes_do_not_run_the_program_again_that_started_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[False, False, False]\n", "")
