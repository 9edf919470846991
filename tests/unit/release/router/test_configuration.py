from dataclasses import replace

import pytest

from pipelines.errors import RouterError
from pipelines.release.router import Split
from pipelines.release.router.configuration import Place, render

STABLE = ("127.0.0.1:8091", "127.0.0.1:8092")
CANARY = "127.0.0.1:8093"
SHADOW = "127.0.0.1:8095"
PLACE = Place(listens=("127.0.0.1:8082",), itself="127.0.0.1:8082", failures="failures.log")


def rendered(split: Split, **place) -> str:
    return render(split, replace(PLACE, **place)).text


def test_canary_gets_its_share_of_users_and_each_side_covers_for_the_other():
    text = rendered(Split(STABLE, CANARY, 20))
    assert "20% canary;" in text
    assert f"server {CANARY} max_fails=0;" in text
    assert f"server {CANARY} max_fails=0 backup;" in text
    assert f"server {STABLE[0]} max_fails=0 backup;" in text


def test_without_a_canary_everybody_meets_stable():
    text = rendered(Split(STABLE))
    assert "% canary" not in text
    assert CANARY not in text


def test_promoted_canary_is_one_more_stable_server():
    text = rendered(Split(STABLE, CANARY, 0))
    assert "% canary" not in text
    assert f"server {CANARY} max_fails=0;" in text
    assert f"{CANARY} max_fails=0 backup" not in text


def test_an_older_nginx_is_not_given_what_it_does_not_know():
    assert "keepalive_min_timeout" not in rendered(Split(STABLE), version=(1, 22, 1))
    assert "keepalive_min_timeout" in rendered(Split(STABLE))


@pytest.mark.parametrize("split", [Split(()), Split(STABLE, None, 20)])
def test_a_split_nobody_could_answer_is_refused(split):
    with pytest.raises(RouterError):
        rendered(split)


def test_the_shadow_gets_copies_and_answers_nobody():
    text = rendered(Split(STABLE, CANARY, 20, SHADOW))
    assert text.count(SHADOW) == 2, "in an upstream of its own, and in the fingerprint"
    assert f"server {SHADOW} max_fails=0 max_conns=" in text


def test_nothing_is_copied_where_nobody_wants_it():
    text = rendered(Split(STABLE, CANARY, 20))
    assert "mirror /" not in text
    assert "shadow" not in text


def test_names_of_containers_are_asked_for_again_and_addresses_are_not():
    named = rendered(Split(("stable-1:8000",), "canary:8000", 20), resolver="127.0.0.11")
    assert "resolver 127.0.0.11 valid=1s" in named
    assert "server stable-1:8000 max_fails=0 resolve;" in named
    assert "server canary:8000 max_fails=0 resolve backup;" in named
    assert " resolve" not in rendered(Split(STABLE, CANARY, 20))


def test_a_limit_counts_by_address_and_without_one_nobody_is_counted():
    assert 'default "$binary_remote_addr";' in rendered(Split(STABLE), max_requests_per_s=50)
    assert "rate=50r/s" in rendered(Split(STABLE), max_requests_per_s=50)
    assert 'default "$binary_remote_addr";' not in rendered(Split(STABLE))


def test_the_digest_names_everything_that_is_written():
    digests = {
        render(split, place).digest
        for split in (Split(STABLE), Split(STABLE, CANARY, 20))
        for place in (PLACE, replace(PLACE, max_requests_per_s=50))
    }
    assert len(digests) == 4
    assert render(Split(STABLE), PLACE).digest in render(Split(STABLE), PLACE).text
