import pytest

from pipelines.audit.books import open_books
from pipelines.audit.explain import explain
from pipelines.errors import SettingsError
from pipelines.settings import read

AWAY = "mysql+pymysql://root@127.0.0.1:9/records"


def test_books_are_those_of_the_settings(tmp_path):
    books = open_books(read(_env_file=None, var_dir=tmp_path))
    assert books.database_trouble() == ""
    assert books.models_dir == tmp_path / "models"
    assert [place.split()[1] for place in books.places] == ["records", "archive", "spool"]
    books.engine.dispose()


def test_a_database_that_is_away_leaves_the_spool_open(tmp_path, write, caplog):
    write({})
    books = open_books(read(_env_file=None, var_dir=tmp_path, records_url=AWAY))
    assert "could not be brought up to date" in caplog.text
    assert "Can't connect" in books.database_trouble()
    assert explain(books, "a" * 32).receipt.kept_in == "spool"


def test_an_address_that_is_none_is_not_taken_for_a_database_that_is_away(tmp_path):
    with pytest.raises(SettingsError):
        open_books(read(_env_file=None, var_dir=tmp_path, records_url="nonsense"))


def test_a_password_is_not_among_the_places(tmp_path):
    url = AWAY.replace("root@", "root:secret@")
    books = open_books(read(_env_file=None, var_dir=tmp_path, records_url=url))
    assert not [place for place in books.places if "secret" in place]
