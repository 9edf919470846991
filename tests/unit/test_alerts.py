from datetime import UTC, datetime, timedelta

from pipelines import alerts


def test_refused_model_alert_says_observed_limit_where_and_what_to_do():
    alert = alerts.model_refused("RMSE 1.4000 (limit 1)", "RMSE 1.4 on 200 ratings", "var/runs/x/model.json")
    assert alert.title == "Marquee: model refused, RMSE 1.4000 (limit 1)"
    for words in (
        "RMSE 1.4 on 200 ratings",
        "var/runs/x/model.json",
        "MARQUEE_MAX_RMSE",
        "MARQUEE_MAX_RANKING_WORSE",
        "serving model stays",
    ):
        assert words in alert.body


def test_refused_data_alert_lists_every_failed_check():
    alert = alerts.data_refused(["ratings.rating: 3 of 10 outside 1..5", "stream: no ratings"], "report.json")
    assert "2 critical check(s)" in alert.title
    assert "- ratings.rating: 3 of 10 outside 1..5\n- stream: no ratings" in alert.body
    assert "report.json" in alert.body


def test_lost_events_alert_counts_them_and_says_which_and_what_to_do():
    alert = alerts.events_lost(1_500_000, "movielog4", ["partition 0: offsets 5 to 1,500,004"])
    assert alert.title == "Marquee: up to 1,500,000 line(s) of movielog4 lost"
    for words in ("- partition 0: offsets 5 to 1,500,004\n", "retention.ms", "`collect`", "--file LOG"):
        assert words in alert.body


def test_changed_stream_alert_says_that_nothing_is_gone():
    alert = alerts.stream_changed(["partition 0 is of another stream now"])
    assert "- partition 0 is of another stream now\nEverything collected before is kept" in alert.body


def test_aborted_alert_says_what_still_serves():
    alert = alerts.aborted(7, 3, 2, "mean response time 700 ms; the limit is 500 ms", "the UI")
    assert "Still serving: version 2" in alert.body
    assert "700 ms" in alert.body
    assert "the UI" in alert.body


def test_first_promotion_had_nothing_before():
    assert "Before: nothing." in alerts.promoted(1, 1, None, "first version", "the UI").body


def test_lost_receipts_alert_counts_them_and_names_where_and_when():
    alert = alerts.receipts_lost(1_207, ["1,200 of canary, from 12:00", "7 of stable-1"], "var/spool")
    assert alert.title == "Marquee: 1,207 receipt(s) lost"
    assert "- 1,200 of canary, from 12:00\n- 7 of stable-1" in alert.body
    assert "permissions of var/spool" in alert.body


def test_waiting_receipts_alert_says_since_when_and_that_none_is_lost():
    since = datetime(2026, 11, 22, 3, 10, tzinfo=UTC)
    alert = alerts.receipts_waiting(since, since + timedelta(minutes=16), "", "var/spool")
    assert (
        "2026-11-22 03:10 UTC is in the database, 16 minutes ago. The records database answers." in alert.body
    )
    assert "No receipt is lost" in alert.body


def test_text_is_title_and_body():
    alert = alerts.rolled_back(7, 1, 2, "", "the UI")
    assert alert.text == f"{alert.title}\n{alert.body}"
    assert "Reason given: none" in alert.body


def test_what_is_told_of_a_release_has_a_key_of_its_own():
    told = [
        alerts.promoted(7, 3, 2, "fast", "the UI"),
        alerts.aborted(7, 3, 2, "slow", "the UI"),
        alerts.asked(7, 3, "nobody came", "the UI"),
        alerts.instrument_broken(7, 3, "no answer", datetime(2026, 11, 22, 3, 10, tzinfo=UTC), "the UI"),
        alerts.not_guarded(7, 3, "nobody looked", "the UI"),
        alerts.reverted(7, 3, 2, "slow", "the UI"),
        alerts.rolled_back(7, 3, 2, "", "the UI"),
    ]
    assert len({alert.key for alert in told}) == len(told)
    for alert in told:
        assert alert.key.startswith("release-7-")
        assert "Where to look: the UI" in alert.body


def test_a_version_taken_back_says_what_serves_again_and_why():
    alert = alerts.reverted(7, 3, 2, "12.0% of 500 answers failed", "the UI")
    assert alert.title == "Marquee: version 3 taken back, version 2 serves again"
    assert "Observed: 12.0% of 500 answers failed" in alert.body
