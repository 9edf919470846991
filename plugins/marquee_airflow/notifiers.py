"""Alerts go to Slack and e-mail from here, through Airflow's providers; an alert never fails a task."""

import html
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.alerts import Alert
from pipelines.settings import Settings, settings

log = logging.getLogger(__name__)

SLACK = "marquee_slack"
SMTP = "marquee_smtp"
_TIMEOUT_S = 10
_SMTPS_PORT = 465


def announce(alert: Alert) -> None:
    """Send ``alert`` wherever the settings say; one that cannot be delivered is logged and let go."""
    log.info("alert: %s", alert.text)
    config = settings()
    known = connections(config)
    for name, send in _CHANNELS.items():
        if _variable(name) in known:
            _deliver(name, send, alert, config, known)


def connections(config: Settings) -> dict[str, str]:
    """Return the environment variables that define the Airflow connections of the alerts.

    A channel that is not configured has none. The values are connections as JSON, secrets included.
    """
    return {
        _variable(name): json.dumps(connection)
        for name, connection in {SLACK: _slack(config), SMTP: _smtp(config)}.items()
        if connection
    }


def _slack(config: Settings) -> dict[str, object]:
    url = config.slack_webhook_url.get_secret_value()
    # The whole address is the secret; given as password it is taken as it is, and masked in logs.
    return {"conn_type": "slackwebhook", "password": url} if url else {}


def _smtp(config: Settings) -> dict[str, object]:
    if not config.smtp_host:
        return {}
    encrypted_from_the_start = config.smtp_tls and config.smtp_port == _SMTPS_PORT
    return {
        "conn_type": "smtp",
        "host": config.smtp_host,
        "port": config.smtp_port,
        "login": config.smtp_user,
        "password": config.smtp_password.get_secret_value(),
        "extra": {
            "from_email": config.mail_from,
            "disable_ssl": not encrypted_from_the_start,
            "disable_tls": encrypted_from_the_start or not config.smtp_tls,
            "timeout": _TIMEOUT_S,
            "retry_limit": 0,
        },
    }


def _to_slack(alert: Alert, config: Settings) -> None:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    # Slack reads <, > and & as markup: `<!channel>` in a movie id would wake everybody.
    text = html.escape(alert.text, quote=False)
    # `notify`, for a call of the notifier would render the text as a template, and alerts quote data.
    notifier: Any = SlackWebhookNotifier(slack_webhook_conn_id=SLACK, text=text, timeout=_TIMEOUT_S)
    notifier.notify({})


def _to_mail(alert: Alert, config: Settings) -> None:
    from marquee_airflow.mail import MailHook, headers

    with MailHook(SMTP, text=alert.text) as hook:
        hook.send_email_smtp(
            to=config.mail_to,
            from_email=config.mail_from,
            subject=" ".join(alert.title.split()),
            html_content=f'<pre style="white-space: pre-wrap">{html.escape(alert.text)}</pre>',
            mime_subtype="alternative",
            custom_headers=headers(alert),
        )


# Hooks and not the providers' notifiers: those render their text as a Jinja template, and alerts quote data.
_Send = Callable[[Alert, Settings], None]
_CHANNELS: Mapping[str, _Send] = {SLACK: _to_slack, SMTP: _to_mail}


def _deliver(name: str, send: _Send, alert: Alert, config: Settings, known: Mapping[str, str]) -> None:
    try:
        with _in_environment(known):
            send(alert, config)
    except Exception as error:
        trouble = _without_secrets(f"{type(error).__name__}: {error}", config)
        log.warning("%s could not be told %r: %s", name, alert.title, trouble)


@contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Define connections for as long as they are used, unless the environment has them already."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _without_secrets(text: str, config: Settings) -> str:
    for secret in (config.slack_webhook_url, config.smtp_password):
        text = text.replace(secret.get_secret_value() or "\0", "***")
    return text


def _variable(connection: str) -> str:
    return f"AIRFLOW_CONN_{connection.upper()}"
