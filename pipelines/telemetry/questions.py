"""The questions that telemetry answers, as a table of SQL: what happened, by what, with which figures.

``telemetry.py`` asks them. A new figure is a line here, a new question an entry in ``QUESTIONS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipelines.events.grammar import MAX_MOVIES


class Asked(StrEnum):
    """What is asked for."""

    WATCHED = "watched"
    RATINGS = "ratings"
    REQUESTS = "requests"
    REJECTS = "rejects"


class By(StrEnum):
    """What it is grouped by."""

    HOUR = "hour"
    MOVIE = "movie"
    USER = "user"
    REASON = "reason"


@dataclass(frozen=True, slots=True)
class Question:
    """One question; its SQL reads ``$files`` from ``$since`` up to, not including, ``$until``.

    A table ``starts`` puts the oldest time of each batch (its file's name) at the offset before its first.
    """

    title: str
    rows: str
    """SQL with a place for the ``key``: what the figures are made of, one row for each thing that counts."""
    keys: Mapping[By, str]
    """SQL of the key of each grouping that makes sense; the first is the default."""
    figures: Mapping[str, str]
    """SQL of each figure of a group; the first says how large the group is."""
    further: Mapping[By, Mapping[str, str]]
    """Figures that say something in some groupings only."""
    note: str
    """What a reader has to know about how it is counted."""

    def groups(self, by: By) -> str:
        """Return SQL of the largest ``$top`` groups: key, figures, number of groups."""
        figures = self._columns(by)
        size = next(iter(self.figures))
        return (
            f'SELECT key AS "{by}", {figures}, count(*) OVER () AS groups '
            f"FROM ({self.rows.format(key=self.keys[by])}) GROUP BY key ORDER BY {size} DESC, key LIMIT $top"
        )

    def total(self, by: By) -> str:
        """Return SQL of the same figures over everything, one row."""
        return f"SELECT {self._columns(by)} FROM ({self.rows.format(key='NULL')})"

    def _columns(self, by: By) -> str:
        figures = {**self.figures, **self.further.get(by, {})}
        return ", ".join(f"{sql} AS {name}" for name, sql in figures.items())


_BATCH: Final = "parse_filename(filename) AS batch"
_FILES: Final = "read_parquet($files, hive_partitioning = false)"
# Over a TIMESTAMPTZ it would be hours of the session's zone.
_HOUR: Final = "date_trunc('hour', make_timestamp(epoch_us(time)))"
_IN_TIME: Final = "time >= $since AND time < $until"
_RESPONSE: Final = {
    "p50_ms": "quantile_disc(response_ms, 0.5)",
    "p95_ms": "quantile_disc(response_ms, 0.95)",
    "max_ms": "max(response_ms)",
}
_LIST: Final = "string_split(nullif(movie_ids, ''), ',')"

# A reject has no time that could be trusted. Ratings and requests are a hundredth of the stream and yet come
# several times a second: they date a reject as well as all lines would, at a hundredth of the cost.
_REJECTS: Final = f"""(
    WITH dated AS (
        SELECT {_BATCH}, "offset", time FROM {_FILES} WHERE kind IN ('rating', 'request')
        UNION ALL SELECT batch, "offset", time FROM starts
    )
    SELECT reason, time
    FROM (SELECT {_BATCH}, "offset", reason FROM {_FILES} WHERE kind = 'reject')
    ASOF JOIN dated USING (batch, "offset")
)"""

QUESTIONS: Final[Mapping[Asked, Question]] = {
    Asked.WATCHED: Question(
        title="What was watched",
        rows=f"SELECT {{key}} AS key, user_id, movie_id, sum(minutes) AS minutes FROM {_FILES} "
        f"WHERE kind = 'watch' AND {_IN_TIME} GROUP BY ALL",
        keys={By.HOUR: _HOUR, By.MOVIE: "movie_id", By.USER: "user_id"},
        figures={
            "viewings": "count(*)",
            "minutes": "coalesce(sum(minutes), 0)",
            "minutes_each": "avg(minutes)",
        },
        further={By.HOUR: {"users": "count(DISTINCT user_id)"}},
        note="A viewing is one user with one movie, and counts once in all. By hour it counts in each hour "
        "in which a batch's row of it begins, with the row's minutes. A minute counts once in a batch.",
    ),
    Asked.RATINGS: Question(
        title="Ratings",
        rows=f"SELECT {{key}} AS key, rating FROM {_FILES} WHERE kind = 'rating' AND {_IN_TIME}",
        keys={By.HOUR: _HOUR, By.MOVIE: "movie_id", By.USER: "user_id"},
        figures={
            "ratings": "count(*)",
            "mean": "avg(rating)",
            **{f"stars_{stars}": f"count(*) FILTER (rating = {stars})" for stars in range(1, 6)},
        },
        further={},
        note="Every rating counts, also a user's second of a movie; the same line twice in a batch is one.",
    ),
    Asked.REQUESTS: Question(
        title="Recommendation requests",
        rows=f"SELECT {{key}} AS key, status, response_ms, len({_LIST}) < {MAX_MOVIES} AS short "
        f"FROM {_FILES} WHERE kind = 'request' AND {_IN_TIME}",
        keys={By.HOUR: _HOUR, By.MOVIE: f"unnest({_LIST})", By.USER: "user_id"},
        figures={
            "requests": "count(*)",
            "answered_share": "avg((status = 200)::INT)",
            "gave_up_share": "avg((status = 0)::INT)",
            "short_lists": "count(*) FILTER (status = 200 AND short)",
        },
        further={By.HOUR: _RESPONSE, By.USER: _RESPONSE},
        note="answered: status 200. gave up: status 0. short lists: answered with fewer than "
        f"{MAX_MOVIES} movies. By movie, a request counts for every movie in its list.",
    ),
    Asked.REJECTS: Question(
        title="Rejected lines",
        rows=f"SELECT {{key}} AS key, reason FROM {_REJECTS} WHERE {_IN_TIME}",
        keys={By.REASON: "reason", By.HOUR: _HOUR},
        figures={"rejects": "count(*)", "share": "count(*) / nullif(sum(count(*)) OVER (), 0)"},
        further={By.HOUR: {"reasons": "histogram(reason)"}},
        note="A rejected line has the time of the last rating or request before it in its batch, and before "
        "the first of them that of the batch's oldest event. The same line twice in a batch is one.",
    ),
}
