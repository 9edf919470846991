"""The table of calls: what is not in it is refused."""

import pytest
from gate.refusal import Refusal
from gate.rules import rule_of
from gate.wire import parse_head

CALLS_REFUSED = [
    "GET /info",
    "POST /containers/x/exec",
    "POST /exec/x/start",
    "GET /containers/x/archive?path=/",
    "PUT /containers/x/archive?path=/",
    "GET /containers/x/export",
    "POST /containers/x/update",
    "POST /containers/prune",
    "POST /images/create?fromImage=mysql",
    "POST /images/load",
    "GET /images/mysql:9/get",
    "POST /commit?container=x",
    "POST /volumes/create",
    "DELETE /volumes/shop_mysql",
    "GET /networks",
    "POST /networks/shop_marquee/connect",
    "POST /session",
    "POST /grpc",
    "POST /swarm/init",
    "POST /plugins/pull",
    "GET /v1.24/version",
    "POST /build?t=marquee-serving:v8&remote=http://192.0.2.1/x",
    "POST /build?t=marquee-serving:v8&version=2",
    "POST /build?t=marquee-serving:v8&networkmode=host",
    "POST /build?t=marquee-serving:v8&dockerfile=../../etc/passwd",
    "POST /build?t=marquee-serving:v8&target=x",
    "POST /build?t=marquee-serving:v8&buildargs=%7B%7D",
    "POST /build?t=marquee-serving:v8&cgroupparent=/system.slice",
    "POST /build?t=marquee-serving:v8&squash=1",
    "POST /build?T=marquee-serving:v8",
    "POST /containers/create?name=x&platform=linux/arm64",
    "POST /containers/x/restart",
    "POST /images/marquee-serving:v8/tag?repo=marquee-airflow",
    "HEAD /_ping",
    "POST /build?t=marquee-serving:v8&extrahosts=mysql:192.0.2.1",
    "POST /containers/x/attach?stream=1",
    "POST /containers/create/start/json",
]


@pytest.mark.parametrize("call", CALLS_REFUSED)
def test_what_no_rule_names_is_refused(call):
    with pytest.raises(Refusal) as refusal:
        rule_of(parse_head(f"{call} HTTP/1.1\r\nHost: gate\r\n\r\n".encode()))
    assert refusal.value.status == 403


@pytest.mark.parametrize(
    "head",
    [
        b"POST /containers/x/start HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
        b"POST /containers/x/start HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n",
    ],
)
def test_what_a_call_does_not_need_is_refused(head):
    with pytest.raises(Refusal):
        rule_of(parse_head(head))
