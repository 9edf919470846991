"""The fallback ladder: a poor recommendation is better than a missing one.

personal → folded in from what the user watched since the training → popular of late → popular of all time.
The model itself goes down all of it; here is what is left when the model, or the recents, cannot be asked.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pipelines.model.recommender import Model
from serving.metrics import Metrics

ANSWER_LENGTH = 20
POPULAR = "popular"
"""Source of the last rung, the all-time popular list, in the model's own word."""

# No user of the stream is called so: the model gives what it gives to every stranger.
_STRANGER = ""

logger = logging.getLogger(__name__)


class Recents(Protocol):
    """What users watched since the training; in production :class:`pipelines.recents.Recents`."""

    def watched(self, user_id: str) -> Sequence[str]:
        """Return movie ids, the latest first; none for whoever watched nothing."""


class NoRecents:
    """Nobody is known to have watched anything."""

    def watched(self, user_id: str) -> Sequence[str]:
        """Return no movie."""
        return ()


class Answer(NamedTuple):
    """What a user is given."""

    line: str
    """Movie ids, best first, comma-separated; empty when there is nothing at all to give."""
    source: str
    """Rung of the ladder: ``personal``, ``folded-in``, ``trending`` or ``popular``."""
    watched: Sequence[str] = ()
    """Movies watched since the training that were taken into account, the latest first."""


class Ladder:
    """What the model gives to this user, else the all-time list of when it was last well."""

    def __init__(self, model: Model, recents: Recents, metrics: Metrics) -> None:
        self._model = model
        self._recents = recents
        self._metrics = metrics
        self._popular = ""
        self._recents_are_well = True

    def warm_up(self) -> bool:
        """Make one real recommendation, keep the last rung, and return whether there was any to make."""
        try:
            movie_ids = self._model.recommend(_STRANGER, ANSWER_LENGTH).movie_ids
            self._popular = ",".join(self._model.popular(_STRANGER, ANSWER_LENGTH).movie_ids)
        except Exception:
            logger.exception("the model gives no list to a stranger: not ready")
            return False
        return bool(movie_ids)

    def answer(self, user_id: str) -> Answer:
        """Return the best that can be had for any text as ``user_id``; never raises."""
        watched = self._watched(user_id)
        try:
            found = self._model.recommend(user_id, ANSWER_LENGTH, watched)
        except Exception:
            self._metrics.ladder_failures.inc()
            logger.exception("the model failed for user %.80r: giving the popular list", user_id)
            return Answer(self._popular, POPULAR)
        if found.movie_ids:
            return Answer(",".join(found.movie_ids), found.source, watched)
        # Whoever has seen every movie is shown the best of them again.
        return Answer(self._popular, POPULAR, watched)

    def _watched(self, user_id: str) -> Sequence[str]:
        try:
            watched = self._recents.watched(user_id)
        except Exception:
            self._metrics.recents_failures.inc()
            # Told once per outage: the metric counts what follows.
            if self._recents_are_well:
                logger.exception("what users watched is not known: giving lists without it")
            self._recents_are_well = False
            return ()
        self._recents_are_well = True
        return watched
