"""JSON that Docker could read in another way."""

import pytest
from gate.refusal import Refusal
from gate.values import read_json


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"HostConfig": {}, "hostconfig": {}}',
        '{"Host": 1, "Ho\u017ft": 2}',
        '{"Link": 1, "Lin\u212a": 2}',
        "[]",
        "NaN",
        "{",
        '{"a": Infinity}',
        "[" * 10_000,
    ],
)
def test_json_with_two_readings_is_refused(text):
    with pytest.raises(Refusal, match="JSON") as refusal:
        read_json(text)
    assert refusal.value.status == 400
