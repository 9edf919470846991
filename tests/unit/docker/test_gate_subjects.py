"""Whose containers and images a call may be about, and what is shown of them."""

import json

import pytest
from gate.policy import PROJECT, TASK
from gate.refusal import Refusal
from gate.rules import rule_of
from gate.subjects import container_of, narrowed, see_container, see_image, shown
from gate.wire import Request

from tests.gate import POLICY, container


@pytest.mark.parametrize("image", ["marquee-serving:v8", "marquee-airflow", "marquee-airflow:latest"])
def test_images_of_the_house_are_known(image):
    assert POLICY.knows(image)


@pytest.mark.parametrize(
    "image",
    [
        "mysql:9",
        "marquee-serving:latest",
        "marquee-serving:v8x",
        "evil/marquee-serving:v8",
        "marquee-airflow:x",
        "",
    ],
)
def test_other_images_are_not(image):
    assert not POLICY.knows(image)


def judged(path, query, **kind):
    """Let the rule of ``POST path`` or ``GET path`` look at a container."""
    method, _, path = path.partition(" ")
    rule, _ = rule_of(Request(method, path, query))
    see_container(rule, container_of(container(**kind)), query, POLICY)


TASK_LABEL = {TASK: "train"}


@pytest.mark.parametrize(
    ("call", "query", "kind"),
    [
        ("POST /containers/x/stop", {}, {"service": "stable-1"}),
        ("POST /containers/x/wait", {}, {"service": None, **TASK_LABEL}),
        ("DELETE /containers/x", {"force": "True", "link": "False"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-canary-1-next"}, {"service": "canary"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "nginx"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "nginx-spare"}),
        ("POST /containers/x/start", {}, {"service": "mysql"}),
        ("GET /containers/x/json", {}, {"service": "mysql"}),
        ("GET /containers/x/logs", {"since": "0"}, {"service": "nginx"}),
        ("GET /containers/x/logs", {"since": "0"}, {"service": "nginx-spare"}),
    ],
)
def test_calls_of_the_deployer_are_let_through(call, query, kind):
    judged(call, query, **kind)


@pytest.mark.parametrize(
    ("call", "query", "kind"),
    [
        ("POST /containers/x/stop", {}, {"service": "mysql"}),
        ("POST /containers/x/stop", {}, {"service": "gate"}),
        ("POST /containers/x/stop", {}, {"service": "canary", "project": "bank"}),
        ("POST /containers/x/start", {}, {"service": "canary", "project": "bank"}),
        ("GET /containers/x/json", {}, {"service": "canary", "project": "bank"}),
        ("GET /containers/x/logs", {}, {"service": "airflow-init"}),
        ("POST /containers/x/stop", {}, {"service": "nginx"}),
        ("POST /containers/x/wait", {}, {"service": "mysql"}),
        ("POST /containers/x/wait", {}, {"service": "mysql", **TASK_LABEL}),
        ("DELETE /containers/x", {}, {"service": "nginx"}),
        ("DELETE /containers/x", {"link": "1"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-stable-1-1"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-train-1"}, {"service": None, **TASK_LABEL}),
        ("POST /containers/x/kill", {"signal": "KILL"}, {"service": "nginx"}),
        ("POST /containers/x/kill", {}, {"service": "nginx"}),
        ("POST /containers/x/kill", {"signal": "KILL"}, {"service": "nginx-spare"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "door"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "kafka"}),
    ],
)
def test_calls_on_other_containers_are_refused(call, query, kind):
    with pytest.raises(Refusal) as refusal:
        judged(call, query, **kind)
    assert refusal.value.status == 403


def test_of_other_services_only_state_and_labels_are_shown():
    mysql = container("mysql")
    mysql["Config"]["Cmd"] = mysql["Args"] = ["--password=s3cret"]
    log = [{"Output": "s3cret"}]
    mysql["State"] = {"Status": "exited", "ExitCode": 137, "Health": {"Status": "healthy", "Log": log}}
    kept = {"RestartPolicy": {"Name": "always"}, "NetworkMode": "shop_marquee"}
    mysql["HostConfig"] = kept | {"Binds": ["/s3cret:/x"]}
    told = json.loads(shown(container_of(mysql)))
    assert "s3cret" not in str(told)
    # What the keeper goes by.
    assert (told["Id"], told["Name"], told["Config"]["Labels"]) == (
        mysql["Id"],
        "/shop-mysql-1",
        mysql["Config"]["Labels"],
    )
    assert told["State"] == {"Status": "exited", "ExitCode": 137, "Health": {"Status": "healthy"}}
    assert told["Config"]["Tty"] is False, "docker-py asks before it reads a log"
    assert told["HostConfig"] == kept
    assert shown(container_of(container("canary"))) is None


def test_a_refusal_does_not_tell_the_name_of_another_projects_container():
    with pytest.raises(Refusal, match="of another project") as refusal:
        judged("GET /containers/9f/json", {}, project="bank")
    assert "bank" not in str(refusal.value)


def test_a_listing_is_narrowed_to_the_project():
    for asked in ({}, {"filters": '{"label": ["a=b"]}'}, {"filters": '{"label": {"a=b": true}}'}):
        labels = json.loads(narrowed("/containers/json", asked, POLICY)["filters"])["label"]
        assert labels == [f"{PROJECT}=shop", *(["a=b"] if asked else [])]


def test_of_events_only_ends_of_containers_are_told():
    asked = {"filters": '{"type": ["image"], "event": ["exec_create"]}'}
    filters = json.loads(narrowed("/events", asked, POLICY)["filters"])
    assert filters == {"label": [f"{PROJECT}=shop"], "type": ["container"], "event": ["die", "stop"]}


def test_a_list_of_images_is_one_of_versions():
    asked = {"filters": '{"reference": ["mysql"], "dangling": ["true"]}'}
    filters = json.loads(narrowed("/images/json", asked, POLICY)["filters"])
    assert filters == {"label": [], "reference": ["marquee-serving"], "dangling": ["true"]}


@pytest.mark.parametrize("label", ["5", '"a=b"', "true", "[[]]", "[1]"])
def test_labels_that_are_none_are_refused(label):
    with pytest.raises(Refusal, match="labels"):
        narrowed("/containers/json", {"filters": f'{{"label": {label}}}'}, POLICY)


def image_judged(method, image):
    rule, names = rule_of(Request(method, f"/images/{image}" + ("/json" if method == "GET" else ""), {}))
    see_image(rule, names["image"], POLICY)


@pytest.mark.parametrize("image", ["marquee-serving:v8", "marquee-airflow", f"sha256:{'0f' * 32}"])
def test_images_that_containers_are_made_of_are_shown(image):
    image_judged("GET", image)


def test_images_of_versions_are_removed():
    image_judged("DELETE", "marquee-serving:v8")


@pytest.mark.parametrize(
    ("method", "image"),
    [
        ("GET", "mysql:9"),
        ("GET", "sha256:0f"),
        ("GET", "0f0f0f0f0f0f"),
        ("DELETE", "mysql:9"),
        ("DELETE", "marquee-airflow"),
        ("DELETE", "marquee-serving:runtime"),
        ("DELETE", f"sha256:{'0f' * 32}"),
    ],
)
def test_calls_on_other_images_are_refused(method, image):
    with pytest.raises(Refusal):
        image_judged(method, image)
