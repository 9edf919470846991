"""The recorder: ships receipts from the replicas' spool files into the database, each exactly once.

How far a file has been shipped stands in ``spools`` and is written in the transaction that writes its rows,
so a kill at any point leaves either both or neither. A row's key is its request id: even a file that is
shipped again adds nothing.
"""

import fcntl
import logging
import math
import os
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from threading import Event
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from pipelines.records.database import connect, naive_utc, upsert
from pipelines.records.tables import reccom, spools

CHUNK_BYTES = 2 * 2**20
"""Most bytes in one transaction; a line may not be longer."""

LONGEST_PAUSE_S = 10.0
"""Longest pause between two tries while the database is away."""

_SPOOL = re.compile(r"(?P<file>.+-(?P<pid>\d+)-\d+)\.(?P<suffix>jsonl|done)")
_INSERT_NEW = (
    insert(reccom)
    .prefix_with("OR IGNORE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("IGNORE", dialect="mariadb")
)

logger = logging.getLogger(__name__)


class _Receipt(BaseModel):
    """One spool line. The limits are those of the table, so that a row never fails and blocks its file."""

    model_config = ConfigDict(strict=True, extra="ignore")

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    version_number: Annotated[int, Field(ge=0, lt=2**31)]
    user_id: Annotated[str, AfterValidator(lambda text: text[:255])]
    served_at: Annotated[AwareDatetime, Field(strict=False), AfterValidator(naive_utc)]
    arm: Annotated[str, Field(max_length=16)]
    replica: Annotated[str, Field(max_length=64)]
    source: Annotated[str, Field(max_length=16)]
    movie_ids: Annotated[str, Field(max_length=2**14)]
    latency_ms: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    status: Annotated[int, Field(ge=0, lt=2**15)]
    canary_percent: Annotated[int, Field(ge=0, le=100)] | None
