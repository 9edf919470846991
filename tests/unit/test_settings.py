import pytest
from pydantic import ValidationError

from pipelines.errors import SettingsError
from pipelines.settings import PROJECT_DIR, Settings, environment, example, read


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MARQUEE_{name.upper()}", raising=False)
    monkeypatch.delenv("MARQUEE_DOTENV", raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_the_rules_of_the_house():
    config = read()
    assert (config.max_rmse, config.max_mean_ms, config.canary_percent) == (1.0, 500.0, 20)
    assert config.canary_window_s == 12 * 60 * 60
    assert config.retrain_every_days == 2


def test_setting_out_of_range_is_named_with_value_and_allowed_range(monkeypatch):
    monkeypatch.setenv("MARQUEE_CANARY_PERCENT", "80")
    monkeypatch.setenv("MARQUEE_MAX_RMSE", "good")
    with pytest.raises(SettingsError) as caught:
        read()
    text = str(caught.value)
    assert "MARQUEE_CANARY_PERCENT='80'" in text
    assert "at least 1, at most 50" in text
    assert "MARQUEE_MAX_RMSE='good'" in text


def test_secret_that_is_wrong_is_not_shown(monkeypatch):
    monkeypatch.setenv("MARQUEE_SMTP_PORT", "70000")
    with pytest.raises(SettingsError) as caught:
        read(slack_webhook_url=["s3cret"])
    assert "s3cret" not in str(caught.value)


def test_secrets_are_masked_in_repr():
    assert "s3cret" not in repr(read(slack_webhook_url="s3cret", smtp_password="s3cret"))


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        read().max_rmse = 2.0


def test_empty_value_means_the_default(monkeypatch):
    monkeypatch.setenv("MARQUEE_MAX_RMSE", "")
    assert read().max_rmse == 1.0


def test_dot_env_is_read_and_the_environment_wins(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("MARQUEE_MAX_RMSE=0.9\nMARQUEE_SEED=7\n")
    monkeypatch.setenv("MARQUEE_SEED", "8")
    assert (read().max_rmse, read().seed) == (0.9, 8)


def test_relative_folders_belong_to_the_project():
    assert read(var_dir="elsewhere").var_dir == PROJECT_DIR / "elsewhere"
    assert read(var_dir="/srv/marquee").records == "sqlite:////srv/marquee/records.db"


def test_child_process_reads_the_same_settings(monkeypatch):
    config = read(
        max_rmse=0.9,
        kafka_partitions=(0, 2),
        slack_webhook_url="s3cret",
        event_source="file",
        event_file="/a.log",
    )
    for name, value in environment(config).items():
        monkeypatch.setenv(name, value)
    assert read() == config


def test_what_is_empty_for_a_child_is_not_filled_in_from_dot_env(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text(
        "MARQUEE_REGISTRY_GIT_REMOTE=git.example:models\nMARQUEE_REGISTRY_DIR=/srv\n"
    )
    monkeypatch.setenv("MARQUEE_RECORDS_URL", "mysql+pymysql://db.example/records")
    config = read(registry_git_remote="", registry_dir=None, records_url="")
    for name, value in environment(config).items():
        monkeypatch.setenv(name, value)
    assert read() == config
    assert (read().registry_git_remote, read().registry_dir, read().records_url) == ("", None, "")


def test_example_file_is_up_to_date_and_holds_the_defaults(monkeypatch):
    text = (PROJECT_DIR / ".env.example").read_text()
    assert text == example(), "run `make .env.example`"
    for line in text.splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    assert read() == read.__globals__["Settings"](_env_file=None)


def test_example_names_no_path_of_this_machine():
    assert str(PROJECT_DIR) not in example()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"usual_error_share": 0.1, "see_error_share": 0.12},
            r"MARQUEE_SEE_ERROR_SHARE=0.12 must be above .* = 0.125",
        ),
        ({"max_below_worse": 0.2}, r"MARQUEE_SEE_BELOW_MORE=0.1 must be above MARQUEE_MAX_BELOW_WORSE=0.2"),
    ],
)
def test_a_plan_that_could_never_pass_a_candidate_is_refused(wrong, said):
    with pytest.raises(SettingsError, match=said):
        read(_env_file=None, **wrong)
