from pipelines.audit.figures import in_words

ALL = {
    "rmse": 0.875,
    "baseline_rmse": 0.95,
    "serving_rmse": 0.9,
    "serving_version": 3,
    "n_holdout": 1_234,
    "n_ranked_users": 300,
    "ndcg_at_10": 0.4,
    "popularity_ndcg_at_10": 0.25,
    "serving_ndcg_at_10": 0.375,
    "recall_at_20": 0.5,
    "popularity_recall_at_20": 0.125,
    "serving_recall_at_20": None,
    "coverage_at_20": 0.38,
    "share_scored": 0.82,
    "holdout_from": 1_700_000_000,
}


def test_each_figure_stands_beside_what_it_has_to_beat():
    assert dict(in_words(0.875, ALL)) == {
        "RMSE": "0.8750 stars on 1,234 newest ratings (the movies' means: 0.9500; "
        "version 3, serving then: 0.9000)",
        "nDCG@10": "0.4000 over 300 users (popularity: 0.2500; version 3, serving then: 0.3750)",
        "recall@20": "0.5000 over 300 users (popularity: 0.1250)",
        "coverage": "38.0% of the movies are in somebody's list",
        "known users": "82.0% of the users in the hold-out",
    }


def test_what_was_not_measured_is_passed_over():
    assert dict(in_words(0.875, {"ndcg_at_10": None})) == {"RMSE": "0.8750 stars"}
