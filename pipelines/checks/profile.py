"""A profile: what the data of a training looked like, small enough to travel with the model.

New data are compared with the profile of the model that serves, so that "different" means different from
what the answers of today were learnt from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from pipelines.checks.census import COLUMNS, Census, Flags, take
from pipelines.data import quarantine
from pipelines.data.batches import BatchInfo, list_batches, read_table
from pipelines.data.leftout import remaining
from pipelines.errors import DataError

TOP_MOVIES: Final = 100
"""Movies whose shares are compared one by one, all others together: half of all minutes, and shares that
are large enough to be known well."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What some batches held."""

    lines: int
    rejects: dict[str, int]
    """Lines of each reason."""
    stars: list[int]
    """Ratings of 1, 2, … stars."""
    minutes: dict[str, int]
    """Watched minutes of the ``TOP_MOVIES`` movies watched most."""
    other_minutes: int
    effective_viewings: float
    """On how many independent viewings the minutes rest."""
    visits: int
    """Days on which users watched or rated, added up over the users."""
    visits_once: int
    """Users who did so on one day only."""
    viewers: int
    """Users who watched or rated a movie, added up over the movies."""
    viewers_once: int
    """Movies that one user only watched or rated."""

    @classmethod
    def of(cls, census: Census, infos: Sequence[BatchInfo]) -> "Profile":
        """Describe batches by their census and by what they say of themselves."""
        # Ties go by id: the same batches have the same profile.
        ranked = census.movies["minutes"].sort_index().sort_values(ascending=False, kind="stable")
        top = ranked[ranked > 0].head(TOP_MOVIES)
        rejects: dict[str, int] = {}
        for info in infos:
            for reason, lines in info.rejects.items():
                rejects[reason] = rejects.get(reason, 0) + lines
        return cls(
            lines=sum(info.lines for info in infos),
            rejects=dict(sorted(rejects.items())),
            stars=census.stars.tolist(),
            minutes={str(movie): int(minutes) for movie, minutes in top.items()},
            other_minutes=int(ranked.iloc[TOP_MOVIES:].sum()),
            effective_viewings=round(census.effective_viewings, 3),
            visits=int(census.users["days"].sum()),
            visits_once=int((census.users["days"] == 1).sum()),
            viewers=int(census.movies["viewers"].sum()),
            viewers_once=int((census.movies["viewers"] == 1).sum()),
        )

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "Profile":
        """Read back what :meth:`as_json` gave.

        Raises:
            DataError: it was written by code that kept something else.
        """
        if kept.keys() != {field.name for field in fields(cls)}:
            raise DataError(f"it has {sorted(kept) or 'nothing'}; the next training leaves one")
        return cls(**kept)

    def as_json(self) -> dict[str, Any]:
        """Return the profile as it stands in ``model.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reference:
    """What new data are compared with: the data that a model was trained on."""

    version: int
    profile: Profile
    knows_users: Callable[[Sequence[str]], Flags]
    """Tells for each user id whether the model was trained on anything of that user."""
    knows_movies: Callable[[Sequence[str]], Flags]
    """Tells for each movie id whether the model was trained on anything of that movie."""


def describe(folder: Path, names: Collection[str]) -> Profile:
    """Return the profile of the named batches of ``folder``, without what is quarantined.

    Raises:
        DataError: a batch is missing, or something is damaged.
    """
    tables = [read_table(folder, kind, columns, names) for kind, columns in COLUMNS.items()]
    entries, chosen = quarantine.read(folder), set(names)
    infos = [
        remaining(batch, quarantine.of(batch, entries))
        for batch in list_batches(folder)
        if batch.name in chosen
    ]
    return Profile.of(take(*tables), infos)
