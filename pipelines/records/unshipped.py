"""Receipts that are still in the spool: answers of a moment ago, or of all the time the database was away."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.records.lines import parse
from pipelines.records.spool import SpoolFile, chunks, spool_files

_CHUNK_BYTES = 2 * 2**20

logger = logging.getLogger(__name__)


def unshipped(folder: Path, shipped: Mapping[str, int], *, holding: str = "") -> Iterator[dict[str, Any]]:
    """Yield the receipts, as rows of ``reccom``, that stand behind what has been shipped of each file.

    Args:
        folder: the spool.
        shipped: bytes of each file that are in the database, by the file's key.
        holding: only lines in which this text stands somewhere; spares reading the others.
    """
    text = json.dumps(holding)[1:-1].encode()
    for spool in spool_files(folder):
        try:
            with _opened(spool) as file:
                start = shipped.get(spool.key, 0)
                for lines, _ in chunks(file, start, most_bytes=_CHUNK_BYTES, finished=False):
                    if text in lines:
                        yield from parse(line for line in lines.split(b"\n") if text in line).receipts
        except FileNotFoundError:
            continue  # shipped and deleted since the folder was listed
        except OSError as error:
            logger.warning("%s cannot be read: %s; its receipts were not looked at", spool.path, error)


def _opened(spool: SpoolFile) -> BinaryIO:
    try:
        return spool.open()
    except FileNotFoundError:
        return spool.path.with_suffix(".done").open("rb")  # sealed since the folder was listed
