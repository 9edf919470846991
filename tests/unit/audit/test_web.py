import pytest

from pipelines.audit.web import create_app

ID = "a" * 32
PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def client(books):
    return create_app(books).test_client()


def test_a_program_gets_json(client, write):
    write({})
    answer = client.get(f"/receipt/{ID}")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.json["receipt"]["request_id"] == ID
    assert "replay" not in answer.json


def test_a_browser_gets_a_page_that_needs_nothing_else(client, write, track):
    write({})
    track()
    answer = client.get(f"/receipt/{ID}", headers=PAGE)
    assert answer.mimetype == "text/html"
    assert "User 1 got 20 movies from version 2" in answer.text
    assert "<li>m19<wbr></li>" in answer.text
    for foreign in ("src=", "@import", "<script", 'rel="stylesheet"'):
        assert foreign not in answer.text


def test_what_a_user_made_up_does_not_become_markup(client, write):
    write({"user_id": "<script>alert(1)</script>", "movie_ids": "<b>"})
    page = client.get(f"/receipt/{ID}", headers=PAGE).text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<li>&lt;b&gt;<wbr></li>" in page


@pytest.mark.parametrize(("query", "asked"), [("?replay=1", True), ("?replay=0", False), ("", False)])
def test_a_replay_is_made_when_asked_for(client, write, query, asked):
    write({})
    assert ("replay" in client.get(f"/receipt/{ID}{query}").json) == asked


def test_an_unknown_id_is_not_found_in_words(client):
    answer = client.get("/receipt/nothing")
    assert answer.status_code == 404
    assert "there is no receipt for the request id 'nothing'" in answer.json["error"]
    assert "there is no receipt" in client.get("/receipt/nothing", headers=PAGE).text


def test_a_database_that_is_away_is_not_the_same_as_not_found(client, books, tmp_path):
    books.engine.dispose()
    (tmp_path / "records.db").rename(tmp_path / "away.db")
    assert client.get("/receipt/nothing").status_code == 503


def test_another_address_says_what_there_is(client):
    answer = client.get("/")
    assert answer.status_code == 404
    assert "/receipt/<request id>" in answer.json["error"]


def test_it_says_that_it_is_there(client):
    assert client.get("/healthz").text == "ok\n"
