import pytest

from pipelines.fault import Fault
from pipelines.local.demo import SCENARIOS, WINDOW_S, config_of
from pipelines.settings import EventSource, Settings, read


@pytest.fixture(autouse=True)
def at_work(monkeypatch, tmp_path):
    """Settings of somebody who uses Marquee for real."""
    monkeypatch.setenv("MARQUEE_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("MARQUEE_KAFKA_SERVERS", "broker.example:9092")
    monkeypatch.setenv("MARQUEE_RECORDS_URL", "mysql+pymysql://db.example/records")
    monkeypatch.setenv("MARQUEE_REGISTRY_GIT_REMOTE", "git.example:models")
    monkeypatch.setenv("MARQUEE_REGISTRY_DVC_REMOTE", "s3://models")
    monkeypatch.setenv("MARQUEE_SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T/B/x")
    monkeypatch.setenv("MARQUEE_SMTP_HOST", "mail.example")
    monkeypatch.setenv("MARQUEE_MAX_RMSE", "0.9")


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=str)
def test_demo_touches_nothing_that_is_used_for_real(scenario, tmp_path):
    config = config_of(scenario, kafka=True)
    assert config.var_dir == tmp_path / "demo"
    assert config.kafka_topic != read().kafka_topic
    assert config.records == f"sqlite:///{tmp_path / 'demo' / 'records.db'}"
    assert (config.registry_git_remote, config.registry_dvc_remote) == ("", "")
    assert config.slack_webhook_url.get_secret_value().startswith("http://127.0.0.1:")
    assert config.smtp_host == "127.0.0.1"


def test_demo_shortens_the_window_and_keeps_every_limit():
    config, own = config_of(SCENARIOS["good"], kafka=True), read()
    assert (config.canary_window_s, own.canary_window_s) == (WINDOW_S, 12 * 60 * 60)
    limits = [name for name in Settings.model_fields if name.startswith(("max_", "min_"))]
    assert len(limits) > 10
    for limit in (*limits, "canary_percent", "false_abort", "instrument_tolerance"):
        assert getattr(config, limit) == getattr(own, limit)


def test_without_kafka_events_go_through_a_file(tmp_path):
    config = config_of(SCENARIOS["good"], kafka=False)
    assert (config.event_source, config.event_file) == (EventSource.FILE, tmp_path / "demo" / "events.log")


def test_only_the_slow_scenario_starts_another_canary():
    faults = {name: config_of(scenario, kafka=True).canary_fault for name, scenario in SCENARIOS.items()}
    assert faults == {"good": Fault.NONE, "slow": Fault.SLOW, "bad-rmse": Fault.NONE}
