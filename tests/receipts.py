"""Receipts as replicas write them, with one thing changed at a time."""

import json
from datetime import UTC, datetime

from pipelines.records.database import naive_utc

GONE_PID = 2**22 + 1  # above the largest process id of Linux


def receipt(request_id="a", **changes):
    """Return the fields of a spool line."""
    fields = {
        "request_id": request_id,
        "version_number": 3,
        "user_id": "596363",
        "served_at": "2026-03-02T10:00:00.250000+00:00",
        "arm": "stable",
        "replica": "stable-1",
        "source": "personal",
        "movie_ids": "fight+club+1999,inception+2010",
        "watched": "endeavour+,brazil+1985",
        "latency_ms": 1.5,
        "status": 200,
        "canary_percent": 20,
    }
    return fields | changes


def line(request_id="a", **changes):
    """Return a spool line."""
    return as_line(receipt(request_id, **changes))


def loss(lost=7, **changes):
    """Return the line that tells of a loss."""
    fields = {
        "lost": lost,
        "replica": "stable-1",
        "since": "2026-03-02T10:00:00.000001+00:00",
        "until": "2026-03-02T10:05:00+00:00",
    }
    return as_line(fields | changes)


def row(request_id="a", **changes):
    """Return the row of `reccom`; `served_at` may be a time."""
    fields = receipt(request_id, **changes)
    at = fields["served_at"]
    return fields | {"served_at": naive_utc(datetime.fromisoformat(at) if isinstance(at, str) else at)}


def as_line(fields):
    """Return the line of these fields; a time without a zone is UTC."""
    text = json.dumps(fields, separators=(",", ":"), default=lambda at: at.replace(tzinfo=UTC).isoformat())
    return text.encode() + b"\n"
