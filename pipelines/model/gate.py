"""Is the recipe good enough to ship? Figures in, verdict and reason out; nothing is touched."""

import math
from dataclasses import dataclass

from pipelines.model.evaluate import Evaluation
from pipelines.model.ranking import Ranking

_BEYOND_CHANCE = 2.326
"""Standard errors below a rival from which a difference is not chance: one-sided, 1 in 100.

At 5 in 100, with two measures, one in eleven recipes as good as its rival was refused on MovieLens; at 1 in
100 it is one or two in a hundred, and lists given to the wrong users are still found out with 50 users.
"""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the gate says, and why."""

    accepted: bool
    reason: str
    """Full sentences with the numbers the verdict rests on: the ratings first, then the lists."""
    headline: str
    """What was refused, in a few words with its figures, for the alert; empty when accepted."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One part of the verdict."""

    sentence: str
    headline: str = ""
    """Empty: nothing against the recipe."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One measure of the lists, more is better, beside a rival's for the same users."""

    measure: str
    ours: float
    rival: str
    theirs: float
    standard_error: float
    """Of the mean of the users' own differences."""

    @property
    def gap(self) -> float:
        """What the recipe has over the rival; below zero its lists are worse."""
        return self.ours - self.theirs

    def is_worse(self, allowed: float) -> bool:
        """Tell whether the lists are worse by more than ``allowed``, and by more than chance explains."""
        return self.gap < -allowed and self.gap + _BEYOND_CHANCE * self.standard_error < 0

    def __str__(self) -> str:
        return (
            f"{self.measure} {self.ours:.4f}, {self.rival} {self.theirs:.4f} "
            f"({self.gap:+.4f} ± {self.standard_error:.4f})"
        )


def judge(
    evaluation: Evaluation,
    *,
    max_rmse: float,
    max_rmse_worse: float,
    min_holdout: int,
    max_ranking_worse: float,
    min_ranked_users: int,
) -> GateVerdict:
    """Accept a recipe whose predicted ratings and whose lists are both good enough.

    Args:
        evaluation: what was measured of the recipe and of the serving model.
        max_rmse: rating units; the RMSE has to be below.
        max_rmse_worse: rating units; how far the RMSE may lie above the serving model's.
        min_holdout: fewer held-out ratings prove nothing, so they refuse.
        max_ranking_worse: how far nDCG@10 and recall@20 may lie below popularity's and below the serving
            model's; what lies further below is refused, unless chance explains it.
        min_ranked_users: the lists of fewer users are not judged, and the reason says so.
    """
    ratings = (
        _too_few(evaluation, min_holdout)
        or _bad_rmse(evaluation, max_rmse, max_rmse_worse)
        or _Finding(_good_rmse(evaluation, max_rmse, max_rmse_worse))
    )
    lists = _judge_lists(evaluation.ranking, max_ranking_worse, min_ranked_users)
    headline = ratings.headline or lists.headline
    return GateVerdict(not headline, f"{ratings.sentence} {lists.sentence}", headline)


def _too_few(evaluation: Evaluation, min_holdout: int) -> _Finding | None:
    if evaluation.n_holdout >= min_holdout:
        return None
    newer = (
        ""
        if evaluation.serving_version is None
        else f" newer than all that version {evaluation.serving_version}, which serves, was trained on"
    )
    return _Finding(
        f"Only {evaluation.n_holdout} ratings could be held out{newer}; at least {min_holdout} are wanted to "
        "judge. Wait for more ratings, or change MARQUEE_HOLDOUT_SHARE or MARQUEE_MIN_HOLDOUT.",
        f"only {evaluation.n_holdout} held-out ratings ({min_holdout} wanted)",
    )


def _bad_rmse(evaluation: Evaluation, max_rmse: float, max_rmse_worse: float) -> _Finding | None:
    trouble = (
        _not_a_number(evaluation) or _too_high(evaluation, max_rmse) or _worse(evaluation, max_rmse_worse)
    )
    if not trouble:
        return None
    serving = evaluation.serving_rmse
    limit = max_rmse if serving is None or math.isnan(serving) else min(max_rmse, serving + max_rmse_worse)
    return _Finding(trouble, f"RMSE {evaluation.rmse:.4f} (limit {limit:g})")


def _not_a_number(evaluation: Evaluation) -> str:
    if not math.isfinite(evaluation.rmse):
        return f"RMSE on {evaluation.n_holdout} held-out ratings is not a number; the training is broken."
    if evaluation.serving_rmse is not None and not math.isfinite(evaluation.serving_rmse):
        return (
            f"The serving model's RMSE on {evaluation.n_holdout} held-out ratings is not a number, so nothing"
            " can be compared with it; check the serving artifact, or roll back to a version that is sound."
        )
    return ""


def _too_high(evaluation: Evaluation, max_rmse: float) -> str:
    if evaluation.rmse < max_rmse:
        return ""
    return f"{_rmse(evaluation)} is not below {max_rmse:g} ({_beside(evaluation)})."


def _worse(evaluation: Evaluation, max_rmse_worse: float) -> str:
    serving = evaluation.serving_rmse
    if serving is None or evaluation.rmse <= serving + max_rmse_worse:
        return ""
    return (
        f"{_rmse(evaluation)} is worse than the serving model's {serving:.4f} by "
        f"{evaluation.rmse - serving:.4f}, more than the {max_rmse_worse:g} allowed."
    )


def _good_rmse(evaluation: Evaluation, max_rmse: float, max_rmse_worse: float) -> str:
    serving = evaluation.serving_rmse
    if serving is None:
        return f"{_rmse(evaluation)} is below {max_rmse:g}; no model serves yet to compare it with."
    return (
        f"{_rmse(evaluation)} is below {max_rmse:g} and not worse than the serving model's "
        f"{serving:.4f} + {max_rmse_worse:g}."
    )


def _rmse(evaluation: Evaluation) -> str:
    return f"RMSE {evaluation.rmse:.4f} on {evaluation.n_holdout} held-out ratings"


def _beside(evaluation: Evaluation) -> str:
    serving = "none serves" if evaluation.serving_rmse is None else f"{evaluation.serving_rmse:.4f}"
    return f"the serving model: {serving}; the movies' mean ratings alone: {evaluation.baseline_rmse:.4f}"


def _judge_lists(ranking: Ranking, max_worse: float, min_users: int) -> _Finding:
    if ranking.n_ranked_users < min_users:
        return _Finding(f"Ranking was not judged: {ranking.n_ranked_users} users, {min_users} wanted.")
    compared = _comparisons(ranking)
    if not compared:
        return _Finding("Ranking was not judged: nothing was measured to tell a difference from chance.")
    figures = f"{'; '.join(map(str, compared))} (± one standard error). {_reach(ranking)}"
    worse = [one for one in compared if one.is_worse(max_worse)]
    if not worse:
        return _Finding(f"The lists of {ranking.n_ranked_users} users are good enough: {figures}")
    worst = min(worse, key=lambda one: one.gap)
    return _Finding(
        f"The lists of {ranking.n_ranked_users} users are worse than {_rivals(worse)} by more than the "
        f"{max_worse:g} allowed and more than chance explains: {figures}",
        f"{worst.measure} {worst.ours:.4f} ({worst.rival}: {worst.theirs:.4f})",
    )


def _reach(ranking: Ranking) -> str:
    return (
        f"They hold {ranking.coverage_at_20:.1%} of the movies; {ranking.share_scored:.1%} of the users in "
        "the hold-out were known."
    )


def _rivals(comparisons: list[_Comparison]) -> str:
    return " and ".join(sorted({one.rival for one in comparisons}))


def _comparisons(ranking: Ranking) -> list[_Comparison]:
    """Return what could be compared: at first nothing serves, and one user alone tells nothing of chance."""
    ndcg, recall = ranking.ndcg_at_10, ranking.recall_at_20
    figures = [
        ("nDCG@10", ndcg, "popularity", ranking.popularity_ndcg_at_10, ranking.popularity_ndcg_se),
        ("recall@20", recall, "popularity", ranking.popularity_recall_at_20, ranking.popularity_recall_se),
        ("nDCG@10", ndcg, "the serving model", ranking.serving_ndcg_at_10, ranking.serving_ndcg_se),
        ("recall@20", recall, "the serving model", ranking.serving_recall_at_20, ranking.serving_recall_se),
    ]
    return [
        _Comparison(measure, ours, rival, theirs, error)
        for measure, ours, rival, theirs, error in figures
        if theirs is not None and error is not None and math.isfinite(error)
    ]
