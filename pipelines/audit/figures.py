"""The figures of an evaluation in words: each beside what it has to beat."""

from collections.abc import Iterator, Mapping
from typing import Any


def in_words(rmse: float, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (label, text); a figure that was not measured, or is missing, is passed over.

    Args:
        rmse: hold-out RMSE, rating stars.
        figures: what ``Evaluation.as_metrics`` gave; may be of an older version, or empty.
    """
    known = {name: value for name, value in figures.items() if value is not None}
    version = known.get("serving_version")
    serving = f"version {version}, serving then" if version else "serving then"
    on = f" on {known['n_holdout']:,} newest ratings" if "n_holdout" in known else ""
    rivals = {"the movies' means": "baseline_rmse", serving: "serving_rmse"}
    yield "RMSE", f"{rmse:.4f} stars{on}{_beside(known, rivals)}"
    users = f" over {known.get('n_ranked_users', 0):,} users"
    for label, name in (("nDCG@10", "ndcg_at_10"), ("recall@20", "recall_at_20")):
        if name in known:
            rivals = {"popularity": f"popularity_{name}", serving: f"serving_{name}"}
            yield label, f"{known[name]:.4f}{users}{_beside(known, rivals)}"
    if "coverage_at_20" in known:
        yield "coverage", f"{known['coverage_at_20']:.1%} of the movies are in somebody's list"
    if "share_scored" in known:
        yield "known users", f"{known['share_scored']:.1%} of the users in the hold-out"


def _beside(known: Mapping[str, Any], rivals: Mapping[str, str]) -> str:
    told = [f"{rival}: {known[name]:.4f}" for rival, name in rivals.items() if name in known]
    return f" ({'; '.join(told)})" if told else ""
