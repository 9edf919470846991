import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint, split_of

TWO_SPLITS = " / ".join(fingerprint(Split(stable)) for stable in [("a:1",), ("a:1", "b:1")])
ADDRESSES = st.integers(1, 65_535).map("10.0.0.1:{}".format)


@given(
    st.builds(
        Split,
        stable=st.lists(ADDRESSES, min_size=1, max_size=3).map(tuple),
        canary=st.none() | ADDRESSES,
        canary_percent=st.integers(0, 50),
        shadow=st.none() | ADDRESSES,
    )
)
def test_the_fingerprint_tells_the_whole_split(split):
    assert split_of(fingerprint(split)) == split


@pytest.mark.parametrize("said", ["", "502 Bad Gateway", "canary=none percent=x stable=a:1", TWO_SPLITS])
def test_what_names_no_split_is_refused(said):
    with pytest.raises(RouterError, match="is the stack up"):
        split_of(said)
