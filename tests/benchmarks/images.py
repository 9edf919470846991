"""The image of a replica beside the ancestor's recipe: Python, scikit-surprise and a pickled model."""

import io
import tarfile
import time

import docker
from rich.console import Console

from pipelines.settings import PROJECT_DIR
from tests.benchmarks.report import Report
from tests.engine import engine

SECTION = "Images"
RIVAL = "python + scikit-surprise (which has to be compiled), for a pickled model"
ANCESTOR = b"""\
FROM python:3.13-slim-trixie
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
RUN pip install --no-cache-dir scikit-surprise==1.1.5 numpy flask gunicorn prometheus-flask-exporter
"""
_OURS, _RIVAL = "marquee-bench:ours", "marquee-bench:ancestor"
_MIB = 2**20


def run(report: Report) -> None:
    """Build both without a model and compare what they weigh; needs a Docker engine."""
    client = engine()
    try:
        sizes = {
            _OURS: _built(client, _OURS, path=str(PROJECT_DIR), dockerfile="docker/serving/Dockerfile"),
            _RIVAL: _built(client, _RIVAL, fileobj=_context(ANCESTOR), custom_context=True),
        }
        base = client.inspect_image("python:3.13-slim-trixie")["Size"] / _MIB
    finally:
        for tag in (_OURS, _RIVAL):
            client.remove_image(tag, force=True)
        client.close()
    report.add(
        SECTION,
        "serving image without its model",
        sizes[_OURS],
        sizes[_RIVAL],
        unit="MiB",
        rival_name=RIVAL,
        better="less",
        wanted="at most 250 MB",
    )
    report.add(
        SECTION,
        "of it above the Python image",
        sizes[_OURS] - base,
        sizes[_RIVAL] - base,
        unit="MiB",
        rival_name=RIVAL,
        better="less",
    )


def _built(client: docker.APIClient, tag: str, **source: object) -> float:
    """Build an image; returns its size in MiB."""
    began_s = time.monotonic()
    for line in client.build(tag=tag, rm=True, forcerm=True, decode=True, **source):
        if "error" in line:
            raise RuntimeError(f"{tag}: {line['error']}")
    Console().print(f"{tag} built in {time.monotonic() - began_s:.0f} s", style="dim")
    return float(client.inspect_image(tag)["Size"]) / _MIB


def _context(dockerfile: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile))
    file.seek(0)
    return file
