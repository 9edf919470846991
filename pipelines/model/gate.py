"""Is the recipe good enough to ship? Figures in, verdict and reason out; nothing is touched."""

import math
from dataclasses import dataclass

from pipelines.model.evaluate import Evaluation


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the gate says, and the numbers the alert carries."""

    accepted: bool
    reason: str
    """One or two full sentences with the numbers the verdict rests on."""
    rmse: float
    """Hold-out RMSE, rating units; NaN when nothing could be scored."""
    limit: float
    """Highest RMSE that would have passed: the absolute limit or what the serving model allows, the lower."""


def judge(evaluation: Evaluation, *, max_rmse: float, max_rmse_worse: float, min_holdout: int) -> GateVerdict:
    """Accept a recipe below ``max_rmse`` and not more than ``max_rmse_worse`` above the serving model.

    Both in rating units. Fewer than ``min_holdout`` held-out ratings prove nothing, so they refuse.
    """
    serving = evaluation.serving_rmse
    limit = max_rmse if serving is None or math.isnan(serving) else min(max_rmse, serving + max_rmse_worse)
    trouble = (
        _too_few(evaluation, min_holdout)
        or _not_a_number(evaluation)
        or _too_high(evaluation, max_rmse)
        or _worse(evaluation, max_rmse_worse)
    )
    reason = trouble or _accepted(evaluation, max_rmse, max_rmse_worse)
    return GateVerdict(accepted=not trouble, reason=reason, rmse=evaluation.rmse, limit=limit)


def _too_few(evaluation: Evaluation, min_holdout: int) -> str:
    if evaluation.n_holdout >= min_holdout:
        return ""
    newer = (
        ""
        if evaluation.serving_version is None
        else f" newer than all that version {evaluation.serving_version}, which serves, was trained on"
    )
    return (
        f"Only {evaluation.n_holdout} ratings could be held out{newer}; at least {min_holdout} are wanted to "
        "judge. Wait for more ratings, or change MARQUEE_HOLDOUT_SHARE or MARQUEE_MIN_HOLDOUT."
    )


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


def _accepted(evaluation: Evaluation, max_rmse: float, max_rmse_worse: float) -> str:
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
