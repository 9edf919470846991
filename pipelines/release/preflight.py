"""Try a candidate before any viewer meets it: its artifact must open and answer as it should."""

from pathlib import Path

from pipelines.errors import ModelError
from pipelines.model.artifact import load
from pipelines.model.recommender import Model

LIST_LENGTH = 20
_STRANGERS = ("0", "999999", "no-such-user", "ünbekannt")
_KNOWN_USERS = 200


def check(model_dir: Path, version: int) -> str:
    """Return what is wrong with the model in ``model_dir``; empty when nothing is.

    Asks for strangers and for up to 200 users of the training data: every list must have its full length,
    hold no movie twice and none that the user has already seen.
    """
    try:
        model = load(model_dir)
    except ModelError as error:
        return str(error)
    if model.version != version:
        return f"{model_dir} holds version {model.version}, version {version} was wanted"
    step = max(1, model.n_users // _KNOWN_USERS)
    users = [model.user_id(index) for index in range(0, model.n_users, step)]
    troubles = (_trouble(model, user) for user in (*_STRANGERS, *users))
    return next((trouble for trouble in troubles if trouble), "")


def _trouble(model: Model, user_id: str) -> str:
    seen = model.seen(user_id)
    wanted = min(LIST_LENGTH, model.n_movies - len(seen))
    movie_ids = model.recommend(user_id, LIST_LENGTH).movie_ids
    if len(movie_ids) != wanted or len(set(movie_ids)) != wanted:
        return f"user {user_id!r} gets {len(set(movie_ids))} distinct movies, {wanted} were wanted"
    if repeated := seen.intersection(movie_ids):
        return f"user {user_id!r} is offered {sorted(repeated)[0]!r}, which that user has seen"
    return ""
