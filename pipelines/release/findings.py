"""What came of a preflight, and the verdict on it: answers in, trouble out; nothing is touched."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.model.arrays import LIST_LENGTH
from pipelines.model.recommender import PERSONAL, Model
from pipelines.release.figures import GOOD
from pipelines.release.plan import Plan

MOST_S = 30.0
"""How long a candidate may take for all requests; it is judged by what has come until then."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a viewer once asked."""

    user_id: str
    answered: tuple[str, ...] = ()
    """Movies that stable gave; none: it was never asked."""
    watched: tuple[str, ...] = ()
    """Movies that stable knew this user had watched since its training."""
    source: str = ""
    """Rung of stable's answer; empty: it was never asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the candidate answered."""

    request: Request
    status: int
    """0: the connection broke or nothing came within 10 s."""
    took_ms: float
    """The better of two, if it took longer than the limit."""
    version: str = ""
    """As the answer says."""
    source: str = ""
    movie_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What is to be judged of all answers. Lists are those of good answers (status `GOOD`)."""

    requests: int
    """Wanted to be asked."""
    answers: int
    """Came in time, or failed."""
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float
    strangers: int
    """Good answers to users that the version does not know."""
    wrong: tuple[str, ...]
    """Lists that are not full, distinct, unseen and known, and answers of another version: what is wrong."""
    overlap: float | None
    """Mean share of stable's movies that the candidate gives, too, 0 to 1; None: stable gave none."""
    below: float
    """Share below the personal rung, 0 to 1."""
    stable_below: float | None
    """The same of stable's answers to these requests; None: it gave none."""


def findings_of(model: Model, answers: Sequence[Answer], *, requests: int, seconds: float) -> Findings:
    """Sum up what came of ``requests`` in ``seconds``; ``model`` is what should have answered."""
    good = [answer for answer in answers if answer.status == GOOD]
    compared = [answer for answer in good if answer.request.source]
    times_ms = np.array([answer.took_ms for answer in answers] or [0.0])
    p50_ms, p99_ms = np.quantile(times_ms, (0.5, 0.99), method="inverted_cdf")
    return Findings(
        requests=requests,
        answers=len(answers),
        seconds=seconds,
        failed=len(answers) - len(good),
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        strangers=int((~model.knows([answer.request.user_id for answer in good])).sum()) if good else 0,
        wrong=tuple(filter(None, (_wrong(model, answer) for answer in good))),
        overlap=_mean(_overlap(answer) for answer in compared if answer.request.answered),
        below=_mean(answer.source != PERSONAL for answer in compared or good) or 0.0,
        stable_below=_mean(answer.request.source != PERSONAL for answer in compared),
    )


def _wrong(model: Model, answer: Answer) -> str:
    """Say what is wrong with a good answer; empty when nothing is."""
    user_id, movie_ids = answer.request.user_id, answer.movie_ids
    if answer.version != str(model.version):
        return f"user {user_id!r} is answered by version {answer.version!r}"
    watched = answer.request.watched
    seen = model.seen(user_id) | set(_known(model, watched))
    wanted = min(LIST_LENGTH, model.n_movies - len(seen))
    # Whoever has seen everything is shown the best of it again.
    if wanted and (len(movie_ids) != wanted or len(set(movie_ids)) != wanted):
        return f"user {user_id!r} gets {len(set(movie_ids))} distinct movies, {wanted} were wanted"
    if wanted and (repeated := seen.intersection(movie_ids)):
        return f"user {user_id!r} is offered {min(repeated)!r}, which that user has seen"
    if unknown := set(movie_ids).difference(_known(model, movie_ids)):
        return f"user {user_id!r} is offered {min(unknown)!r}, which the version does not know"
    return ""


def trouble(plan: Plan, findings: Findings) -> str:
    """Name the first limit that is broken, or return nothing."""
    found, answers = findings, findings.answers
    if not answers:
        return f"none of {found.requests} requests was answered within {MOST_S:g} s"
    if found.failed > plan.max_preflight_errors * answers:
        return f"{found.failed} of {answers} answers failed; the limit is {plan.max_preflight_errors:.1%}"
    if found.wrong:
        return f"{len(found.wrong)} of {answers} answers are wrong; the first: {found.wrong[0]}"
    if found.p99_ms > plan.max_preflight_p99_ms:
        return (
            f"p99 of the response times is {found.p99_ms:.0f} ms over {answers} answers; "
            f"the limit is {plan.max_preflight_p99_ms:g} ms"
        )
    if answers < found.requests:
        return f"only {answers} of {found.requests} requests were answered within {MOST_S:g} s"
    if found.overlap is not None and found.overlap < plan.min_preflight_overlap:
        return (
            f"the lists have {found.overlap:.1%} of the serving version's movies in common; "
            f"the limit is {plan.min_preflight_overlap:.1%}"
        )
    if found.stable_below is not None and found.below - found.stable_below > plan.max_below_worse:
        return (
            f"{found.below:.1%} of the answers come from below the personal rung, {found.stable_below:.1%} "
            f"of the serving version's; the limit is {plan.max_below_worse:.1%} more"
        )
    return ""


def told(findings: Findings) -> str:
    """Say in one line for people what was found."""
    found = findings
    parts = [
        f"{found.answers} of {found.requests} requests in {found.seconds:.1f} s, {found.failed} failed",
        f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms",
        f"{found.strangers} to strangers",
        f"{found.below:.1%} below the personal rung",
    ]
    if found.stable_below is not None:
        parts[-1] += f" (serving version: {found.stable_below:.1%})"
    if found.overlap is not None:
        parts.append(f"{found.overlap:.1%} of the serving version's movies in common")
    return "; ".join(parts)


def _overlap(answer: Answer) -> float:
    before = set(answer.request.answered)
    return len(before.intersection(answer.movie_ids)) / len(before)


def _known(model: Model, movie_ids: Sequence[str]) -> list[str]:
    if not movie_ids:
        return []
    return [movie for movie, known in zip(movie_ids, model.knows_movies(movie_ids), strict=True) if known]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
