"""The names of what a replica can have wrong on purpose; the serving image knows them, too."""

from enum import StrEnum


class Fault(StrEnum):
    """What a replica can have wrong on purpose, see `pipelines.release.faults`."""

    NONE = "none"
    SLOW = "slow"
    """Every answer takes 700 ms."""
    ERRORING = "erroring"
    """Every tenth answer is a 503."""
    POPULAR = "popular"
    """Everybody gets the same popular list."""
    STALE = "stale"
    """Answers say the version before."""
    WRONG_IDS = "wrong-ids"
    """Lists name movies that do not exist."""
    SHORT = "short"
    """Lists are cut to three movies."""
