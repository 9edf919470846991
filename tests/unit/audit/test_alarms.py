import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from pipelines.audit import alarms
from pipelines.audit.alarms import Alarm, Told, decide, look, silent, watch_alarms
from pipelines.release.prometheus import Prometheus
from pipelines.settings import read

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEN_MINUTES = timedelta(minutes=10)


def entry(name, *, state="firing", **labels):
    """One alert as Prometheus 3.5 describes it at /api/v1/alerts."""
    return {
        "labels": {"alertname": name, **labels},
        "annotations": {
            "summary": f"{name} {'-'.join(labels.values())}".strip(),
            "description": "It is so.",
            "where": "its log",
            "runbook": "mend it.",
        },
        "state": state,
        "activeAt": "2026-11-22T11:58:07.123456789Z",
        "value": "1e+00",
    }


def titles(*looks):
    """Decide one look after the other; return the titles of what each tells."""
    told, news = Told(), []
    for seen in looks:
        alerts, told = decide(told, [Alarm.of_json(alert) for alert in seen])
        told = Told.of_json(json.loads(json.dumps(told.as_json())))
        news.append([alert.title.removeprefix("Marquee: ") for alert in alerts])
    return news


DISK = entry("DiskFull", volume="spool")


def test_an_alert_is_told_once_when_it_begins_and_once_when_it_is_over():
    assert titles([], [DISK], [DISK], [], []) == [[], ["DiskFull spool"], [], ["over: DiskFull spool"], []]


def test_one_that_comes_back_is_told_again():
    assert titles([DISK], [], [DISK])[2] == ["DiskFull spool"]


def test_one_that_is_pending_is_neither_told_nor_over():
    pending = DISK | {"state": "pending"}
    assert titles([pending], [DISK], [pending], [DISK]) == [[], ["DiskFull spool"], [], []]


def test_the_same_rule_for_other_labels_is_another_alert():
    assert titles([DISK], [DISK, entry("DiskFull", volume="state")]) == [
        ["DiskFull spool"],
        ["DiskFull state"],
    ]


def test_alerts_of_one_rule_that_begin_together_are_told_together():
    restarting = [entry("Restarting", service=name) for name in ("mysql", "kafka", "follow")]
    assert titles([DISK, *restarting], []) == [
        ["DiskFull spool", "Restarting follow, and 2 more like it"],
        ["over: DiskFull spool, and 3 more"],
    ]


def test_the_alert_says_what_was_observed_since_when_where_to_look_and_what_to_do():
    ((alert,), _) = decide(Told(), [Alarm.of_json(DISK)])
    assert alert.body == (
        "Observed:\n- It is so. Since 2026-11-22 11:58 UTC.\nWhere to look: its log\nWhat to do: mend it."
    )
    assert alert.key == "alarm-DiskFull-20261122T115807"


@pytest.fixture
def prometheus():
    """Makes one that answers with the given alerts; None: it refuses connections."""

    def make(alerts):
        def answer(request):
            assert request.url.path == "/api/v1/alerts"
            if alerts is None:
                raise httpx.ConnectError("refused")
            return httpx.Response(200, json={"status": "success", "data": {"alerts": alerts}})

        return Prometheus("http://prometheus.test", transport=httpx.MockTransport(answer))

    return make


def test_what_something_else_tells_of_is_passed_over(prometheus):
    others = entry("ReceiptsLost", told_by="housekeeping")
    assert [alarm.name for alarm in look(prometheus([others, DISK]))] == ["DiskFull"]


def test_a_silent_prometheus_is_told_once_after_a_quarter_of_an_hour_and_forgets_nothing():
    _, told = decide(Told(), [Alarm.of_json(DISK)])
    news = []
    for look_number in range(5):
        alerts, told = silent(told, "refused", now=NOON + look_number * TEN_MINUTES, where="http://p")
        news.append([alert.title for alert in alerts])
    assert news == [[], [], ["Marquee: Prometheus does not answer"], [], []]
    assert decide(told, [Alarm.of_json(DISK)]) == (
        [],
        Told(firing={Alarm.of_json(DISK).key: "DiskFull spool"}),
    )


def test_a_run_tells_remembers_and_returns_what_fires(tmp_path, monkeypatch, prometheus):
    config = read(_env_file=None, var_dir=tmp_path)
    told = []

    def run(alerts, at):
        monkeypatch.setattr(alarms, "Prometheus", lambda _: prometheus(alerts))
        return watch_alarms(config, announce=told.append, now=at)

    assert run([DISK], NOON) == ["DiskFull spool"]
    assert run(None, NOON + TEN_MINUTES) == ["DiskFull spool"]
    assert run(None, NOON + 3 * TEN_MINUTES) == ["DiskFull spool"]
    assert run([], NOON + 4 * TEN_MINUTES) == []
    assert [alert.title.removeprefix("Marquee: ") for alert in told] == [
        "DiskFull spool",
        "Prometheus does not answer",
        "over: DiskFull spool",
    ]
    assert "no answer since 2026-11-22 12:10 UTC, 20 minutes ago: Prometheus at http" in told[1].body
