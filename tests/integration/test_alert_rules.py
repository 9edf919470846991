"""The alert rules, as the real promtool reads and plays them."""

import re
import subprocess
from functools import cache
from pathlib import Path
from string import Template

import pytest
import yaml

from pipelines.errors import StackError
from pipelines.local import parts
from pipelines.local.stack import TOOLS_DIR
from pipelines.settings import PROJECT_DIR

FOLDER = PROJECT_DIR / "docker" / "prometheus"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
}


@cache
def _promtool() -> Path:
    return parts.prometheus(TOOLS_DIR).with_name("promtool")


def promtool(*arguments: str | Path) -> None:
    try:
        program = _promtool()
    except StackError as reason:
        pytest.skip(str(reason))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_of_the_containers_takes_its_configuration():
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_prometheus_of_one_machine_takes_its_configuration(tmp_path):
    template = Template((FOLDER / "prometheus.local.yml.template").read_text())
    names = ("stable_1", "stable_2", "canary", "prometheus")
    text = template.substitute(dict.fromkeys(names, "127.0.0.1:1"), rules=FOLDER / "rules.yml")
    (tmp_path / "prometheus.yml").write_text(text)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_keeps_still_when_it_should_not():
    promtool("test", "rules", FOLDER / "rules.test.yml")


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_is_seen_firing_somewhere(alert):
    played = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
    seen = [sample["labels"] for test in played for one in test["promql_expr_test"]
            for sample in one.get("exp_samples", [])]  # fmt: skip
    assert any(f'alertname="{alert}"' in labels for labels in seen), "add a test to rules.test.yml"


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_says_what_was_observed_where_to_look_and_what_to_do(alert):
    told = RULES[alert]["annotations"]
    assert set(told) == {"summary", "description", "where", "runbook"}
    assert told["description"].endswith((".", "}}", "!")), "a whole sentence, for another one follows it"


def test_both_stacks_call_what_a_watch_asks_for_alike():
    local = yaml.safe_load(Template((FOLDER / "prometheus.local.yml.template").read_text()).safe_substitute())
    containers = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    def replicas(config):
        (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "replicas")
        every = job.get("scrape_interval", config["global"]["scrape_interval"])
        return every, job["honor_labels"], [target["labels"] for target in job["static_configs"]]

    assert replicas(containers) == replicas(local)


def test_every_rule_rests_on_figures_that_are_scraped():
    jobs = {
        job["job_name"] for job in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    }
    text = "\n".join(rule["expr"] for rule in RULES.values())
    assert set(re.findall(r'job="(\w+)"', text)) <= jobs
