import json
import logging
import os
import re
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowException

from marquee_airflow import notifiers
from marquee_airflow.connections import connections
from marquee_airflow.notifiers import announce
from pipelines.alerts import Alert
from pipelines.local import catchers
from pipelines.settings import Settings, read
from tests.ports import free_ports

ALERT = Alert("Marquee: version 3 taken away", 'mean 900 ms > 500 ms & "slow"\n{{ ti }} <!channel>')
SLACK_URL = "https://hooks.slack.com/services/T0/B0/not-for-logs"
PASSWORD = "mail-not-for-logs"


@contextmanager
def catching(run: Callable[[int, Path, threading.Event], None], folder: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(port, folder, stop))
    thread.start()
    try:
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
        yield port
    finally:
        stop.set()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, **values: Any) -> Settings:
    config = read(_env_file=None, **values)
    monkeypatch.setattr(notifiers, "settings", lambda: config)
    return config


def connection(config: Settings, name: str) -> Connection:
    return Connection.from_json(connections(config)[f"AIRFLOW_CONN_{name.upper()}"], conn_id=name)


def test_nothing_configured_is_no_connection(monkeypatch):
    assert connections(read(_env_file=None)) == {}
    use(monkeypatch)
    announce(ALERT)


def test_airflow_reads_the_slack_connection():
    slack = connection(read(slack_webhook_url=SLACK_URL), "marquee_slack")
    assert (slack.conn_type, slack.password) == ("slackwebhook", SLACK_URL)


@pytest.mark.parametrize(
    ("tls", "port", "from_the_start", "starttls"),
    [
        (True, 587, False, True),
        (True, 465, True, False),
        (False, 8025, False, False),
        (False, 465, False, False),
    ],
)
def test_airflow_reads_the_mail_connection(tls, port, from_the_start, starttls):
    config = read(
        smtp_host="mail.example", smtp_port=port, smtp_user="me", smtp_password=PASSWORD, smtp_tls=tls
    )
    mail = connection(config, "marquee_smtp")
    assert (mail.conn_type, mail.host, mail.port) == ("smtp", "mail.example", port)
    assert (mail.login, mail.password) == ("me", PASSWORD)
    assert mail.extra_dejson["disable_ssl"] is not from_the_start
    assert mail.extra_dejson["disable_tls"] is not starttls


def test_connections_are_valid_json_of_strings():
    config = read(slack_webhook_url=SLACK_URL, smtp_host="mail.example")
    assert all(json.loads(value)["conn_type"] for value in connections(config).values())


def test_slack_shows_the_alert_and_takes_nothing_for_markup(monkeypatch, tmp_path):
    with catching(catchers.run_slack, tmp_path) as port:
        use(monkeypatch, slack_webhook_url=f"http://127.0.0.1:{port}/services/T0/B0/x")
        announce(ALERT)
    (message,) = catchers.read_slack(tmp_path)
    assert message.text == (
        'Marquee: version 3 taken away\nmean 900 ms &gt; 500 ms &amp; "slow"\n{{ ti }} &lt;!channel&gt;'
    )


def test_the_mail_carries_the_alert_as_plain_text_and_as_html(monkeypatch, tmp_path):
    with catching(catchers.run_smtp, tmp_path) as port:
        use(
            monkeypatch,
            smtp_host="127.0.0.1",
            smtp_port=port,
            smtp_tls=False,
            mail_from="marquee@here",
            mail_to="a@there, b@there",
        )
        announce(ALERT)
    (mail,) = catchers.read_mails(tmp_path)
    assert (mail.sender, mail.to) == ("marquee@here", "a@there, b@there")
    assert mail.subject == ALERT.title
    assert mail.text == ALERT.text
    (stored,) = tmp_path.glob("*.eml")
    assert b"text/html" in stored.read_bytes()


def test_an_alert_that_is_sent_twice_is_one_mail_to_a_mailbox(monkeypatch, tmp_path):
    promoted = Alert("Marquee: version 3 promoted", "mean 120 ms", key="release-2-promoted")
    of_another_ledger = replace(promoted, body="mean 130 ms")
    with catching(catchers.run_smtp, tmp_path) as port:
        use(monkeypatch, smtp_host="127.0.0.1", smtp_port=port, smtp_tls=False)
        for alert in (promoted, promoted, of_another_ledger, ALERT):
            announce(alert)
    ids = [message_from_bytes(mail.read_bytes())["Message-ID"] for mail in sorted(tmp_path.glob("*.eml"))]
    first, again, other, without_key = ids
    assert first == again != other
    assert re.fullmatch(r"<release-2-promoted\.[0-9a-f]{16}@marquee>", first)
    assert without_key is None


def test_a_title_of_two_lines_is_still_one_subject(monkeypatch, tmp_path):
    with catching(catchers.run_smtp, tmp_path) as port:
        use(monkeypatch, smtp_host="127.0.0.1", smtp_port=port, smtp_tls=False)
        announce(Alert("two\nlines", ""))
    assert catchers.read_mails(tmp_path)[0].subject == "two lines"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("nobody there"),
        smtplib.SMTPAuthenticationError(535, b"no"),
        AirflowException(f"404 from {SLACK_URL} with {PASSWORD}"),
    ],
)
def test_a_channel_that_is_down_is_logged_without_secrets_and_the_other_is_told(monkeypatch, caplog, error):
    told: list[str] = []

    def broken(alert: Alert, config: Settings) -> None:
        raise error

    use(monkeypatch, slack_webhook_url=SLACK_URL, smtp_host="mail.example", smtp_password=PASSWORD)
    monkeypatch.setattr(
        notifiers,
        "_CHANNELS",
        {notifiers.SLACK: broken, notifiers.SMTP: lambda alert, config: told.append(alert.title)},
    )
    with caplog.at_level(logging.DEBUG):
        announce(ALERT)
    assert told == [ALERT.title]
    assert "marquee_slack could not be told" in caplog.text
    assert type(error).__name__ in caplog.text
    assert SLACK_URL not in caplog.text
    assert PASSWORD not in caplog.text


def test_the_connections_are_gone_once_the_alert_is_out(monkeypatch):
    seen: list[bool] = []
    name = "AIRFLOW_CONN_MARQUEE_SLACK"
    use(monkeypatch, slack_webhook_url=SLACK_URL)
    monkeypatch.setattr(
        notifiers, "_CHANNELS", {notifiers.SLACK: lambda alert, config: seen.append(name in os.environ)}
    )
    announce(ALERT)
    assert seen == [True]
    assert name not in os.environ


def test_a_connection_of_the_environment_is_left_alone(monkeypatch):
    seen: list[str] = []
    name = "AIRFLOW_CONN_MARQUEE_SLACK"
    monkeypatch.setenv(name, "theirs")
    use(monkeypatch, slack_webhook_url=SLACK_URL)
    monkeypatch.setattr(
        notifiers, "_CHANNELS", {notifiers.SLACK: lambda alert, config: seen.append(os.environ[name])}
    )
    announce(ALERT)
    assert seen == ["theirs"]
    assert os.environ[name] == "theirs"
