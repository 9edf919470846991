"""The fallback ladder: a poor recommendation is better than a missing one."""

import logging
from typing import NamedTuple

from pipelines.model.artifact import Model

ANSWER_LENGTH = 20
FALLBACK = "fallback"
"""Source of the general list when it stands in for a model that had nothing for this user."""

# No user of the stream is called so: the model gives what it gives to every stranger.
_STRANGER = ""

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a user is given."""

    line: str
    """Movie ids, best first, comma-separated; empty when there is nothing at all to give."""
    source: str
    """Rung of the ladder: ``personal`` or ``popular`` (the model's own words), or ``fallback``."""


class Ladder:
    """What the model gives to this user, else what it gave to a stranger when it was last well."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._general = ""

    def warm_up(self) -> bool:
        """Make one real recommendation, keep it as the last rung, and return whether there was one."""
        try:
            movie_ids = self._model.recommend(_STRANGER, ANSWER_LENGTH).movie_ids
        except Exception:
            logger.exception("the model gives no list to a stranger: not ready")
            return False
        if movie_ids:
            self._general = ",".join(movie_ids)
        return bool(movie_ids)

    def answer(self, user_id: str) -> Answer:
        """Return the best that can be had for any text as ``user_id``; never raises."""
        try:
            found = self._model.recommend(user_id, ANSWER_LENGTH)
            if found.movie_ids:
                return Answer(",".join(found.movie_ids), found.source)
        except Exception:
            logger.exception("the model failed for user %.80r: giving the general list", user_id)
        return Answer(self._general, FALLBACK)
