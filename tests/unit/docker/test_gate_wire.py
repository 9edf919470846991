"""A request is read in one way or refused, and Docker reads the same in it."""

from contextlib import suppress
from urllib.parse import parse_qsl

import httptools
import pytest
from gate.refusal import Refusal
from gate.wire import head_for_docker, parse_head
from hypothesis import given, settings
from hypothesis import strategies as st

HEADS_REFUSED = {
    "two lengths": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    "the same length twice": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\ncontent-length: 4\r\n\r\n",
    "lengths in a list": b"POST /build HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n",
    "length with a sign": b"POST /build HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
    "length in hexadecimal": b"POST /build HTTP/1.1\r\nContent-Length: 0x4\r\n\r\n",
    "length of nothing": b"POST /build HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "length and chunks": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "another coding": b"POST /build HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "coding in capitals": b"POST /build HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "space before the colon": b"POST /build HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
    "folded line": b"POST /build HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
    "bare line feed": b"POST /build HTTP/1.1\nContent-Length: 4\r\n\r\n",
    "bare line feed in a header": b"GET /_ping HTTP/1.1\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
    "bare carriage return": b"GET /_ping HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "nul": b"GET /_ping HTTP/1.1\r\nA: b\x00\r\n\r\n",
    "not ASCII": "GET /_ping HTTP/1.1\r\nA: ä\r\n\r\n".encode(),
    "absolute address": b"GET http://docker/_ping HTTP/1.1\r\n\r\n",
    "no path": b"GET * HTTP/1.1\r\n\r\n",
    "encoded slash": b"POST /containers/x%2Fexec HTTP/1.1\r\n\r\n",
    "encoded letter": b"POST /containers/x/%73tart HTTP/1.1\r\n\r\n",
    "way up": b"POST /containers/../build HTTP/1.1\r\n\r\n",
    "way up at the end": b"GET /images/x/.. HTTP/1.1\r\n\r\n",
    "slash at the end": b"POST /containers/x/kill/ HTTP/1.1\r\n\r\n",
    "two slashes": b"GET //_ping HTTP/1.1\r\n\r\n",
    "parameters of a path": b"GET /_ping;a=b HTTP/1.1\r\n\r\n",
    "fragment": b"GET /_ping#x HTTP/1.1\r\n\r\n",
    "parameter twice": b"POST /build?t=marquee-serving:v8&t=mysql HTTP/1.1\r\n\r\n",
    "parameter without value": b"POST /build?remote HTTP/1.1\r\n\r\n",
    "two spaces": b"GET  /_ping HTTP/1.1\r\n\r\n",
    "tabulator": b"GET\t/_ping HTTP/1.1\r\n\r\n",
    "older HTTP": b"GET /_ping HTTP/1.0\r\n\r\n",
    "newer HTTP": b"PRI * HTTP/2.0\r\n\r\n",
    "method in small letters": b"get /_ping HTTP/1.1\r\n\r\n",
    "nothing": b"\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS_REFUSED.values(), ids=HEADS_REFUSED)
def test_a_head_with_two_readings_is_refused(head):
    with pytest.raises(Refusal) as refusal:
        parse_head(head)
    assert refusal.value.status == 400


class Reading:
    """What another parser makes of a request."""

    def __init__(self, sent):
        self.urls, self.ends = [], 0
        parser = httptools.HttpRequestParser(self)
        with suppress(httptools.HttpParserUpgrade):  # of an attachment: nothing of HTTP follows
            parser.feed_data(sent)
        self.method = parser.get_method()

    def on_url(self, url):
        self.urls.append(url)

    def on_message_complete(self):
        self.ends += 1


texts = st.text(st.characters(codec="latin-1"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "get", "DELETE"]),
    st.lists(
        st.sampled_from(["containers", "x", "..", "json", "build", "v1.41", "", "%2e"]),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.sampled_from(["t", "a"]) | texts, texts), max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from(["Content-Length", "Transfer-Encoding", "Upgrade", "Host"]) | texts,
            texts | st.just("0"),
        ),
        max_size=3,
    ),
)
def test_docker_reads_one_request_and_the_same_as_the_gate(method, parts, query, headers):
    target = f"/{'/'.join(parts)}?{'&'.join('='.join(pair) for pair in query)}"
    lines = [f"{method} {target} HTTP/1.1", *(": ".join(pair) for pair in headers), "", ""]
    try:
        understood = parse_head("\r\n".join(lines).encode())
    except Refusal:
        return
    if understood.length != 0:
        return
    sent = head_for_docker(understood, understood.path, understood.query, b"")
    reading = Reading(sent)
    assert (reading.ends, reading.method.decode()) == (1, understood.method)
    path, _, rest = reading.urls[0].decode().partition("?")
    assert path == understood.version + understood.path
    assert dict(parse_qsl(rest, keep_blank_values=True)) == understood.query
