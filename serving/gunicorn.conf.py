# ruff: noqa: N999 - the name that gunicorn gives it
"""How gunicorn runs a replica: a few workers that share one model's pages, and stop without losing an answer.

| variable                 | what it says                                                          |
|--------------------------|-----------------------------------------------------------------------|
| MARQUEE_BIND_ADDRESS     | host:port to listen on (127.0.0.1:8091)                               |
| MARQUEE_REPLICA_WORKERS  | worker processes (2)                                                  |
| PROMETHEUS_MULTIPROC_DIR | folder of this replica alone for its workers' counters; emptied here  |
| MARQUEE_FAULT            | anything but ``none``: the replica is one of the known-bad ones       |

The counters are mapped into memory: keep them in memory too (``/dev/shm``), because a full disk under them
ends the replica with a bus error, while one under the spool costs receipts only.
What the application itself reads stands in ``serving/wsgi.py``.
"""

import gc
import os
from pathlib import Path
from typing import Any

# The known-bad replica stands outside of this package: nothing in here can be made to fail.
_good = os.environ.get("MARQUEE_FAULT", "none") == "none"
wsgi_app = f"{'serving.wsgi' if _good else 'pipelines.release.faults'}:create_app_from_env()"
bind = os.environ.get("MARQUEE_BIND_ADDRESS", "127.0.0.1:8091")
workers = int(os.environ.get("MARQUEE_REPLICA_WORKERS", "2"))
# Threads keep connections to NGINX open, and a slow answer does not hold up the probes behind it.
worker_class = "serving.worker.PoliteWorker"
threads = 4
# Longer than NGINX keeps an idle connection (60 s), so that NGINX, which knows when it sends, closes first.
keepalive = 75
# Loaded once and forked: the workers share the model's memory-mapped pages.
preload_app = True
timeout = 30
# Below the 10 s after which `docker stop` kills.
graceful_timeout = 8
# Made-up user ids may be long; NGINX by itself lets through no more than this.
limit_request_line = 8190
accesslog = None
errorlog = "-"
control_socket_disable = True
# The heartbeat file of a worker on a busy disk can block it long enough to be killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - named as such by Linux

# A product with one vector is too small to share out: BLAS threads would only fight over the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_counters_dir = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
_counters_dir.mkdir(parents=True, exist_ok=True)


def on_starting(server: Any) -> None:
    """Begin with counters at zero, and hand over receipts that an earlier start left behind.

    What is loaded by now is left out of all later collections of garbage: looking through it would take time
    in the middle of an answer and make each worker copy its pages. Before the port is open, because whoever
    connects then waits for the first worker.
    """
    for file in _counters_dir.glob("*.db"):
        file.unlink()
    _seal()
    gc.collect()
    gc.freeze()


def child_exit(server: Any, worker: Any) -> None:
    """Hand over the receipts of a worker that ended; its counters stay, so that no sum goes back."""
    _seal()


def _seal() -> None:
    # Not at the top: the exporter must be imported after its folder is there.
    from serving.receipts import seal

    seal(Path(os.environ["MARQUEE_SPOOL_DIR"]), os.environ["MARQUEE_REPLICA"])
