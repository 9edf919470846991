"""Alerts go to Slack and e-mail from here, through Airflow's providers; an alert never fails a task."""

import html
import logging
from collections.abc import Callable, Mapping
from typing import Any

from marquee_airflow.connections import SLACK, SMTP, TIMEOUT_S, connections, defined, variable
from pipelines.alerts import Alert
from pipelines.settings import Settings, settings

log = logging.getLogger(__name__)


def announce(alert: Alert) -> None:
    """Send ``alert`` wherever the settings say; one that cannot be delivered is logged and let go."""
    log.info("alert: %s", alert.text)
    config = settings()
    known = connections(config)
    for name, send in _CHANNELS.items():
        if described := known.get(variable(name)):
            _deliver(name, send, alert, config, {variable(name): described})


def _to_slack(alert: Alert, config: Settings) -> None:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    # Slack reads <, > and & as markup: `<!channel>` in a movie id would wake everybody.
    text = html.escape(alert.text, quote=False)
    # `notify`, for a call of the notifier would render the text as a template, and alerts quote data.
    notifier: Any = SlackWebhookNotifier(slack_webhook_conn_id=SLACK, text=text, timeout=TIMEOUT_S)
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
        with defined(known):
            send(alert, config)
    except Exception as error:
        trouble = _without_secrets(f"{type(error).__name__}: {error}", config)
        log.warning("%s could not be told %r: %s", name, alert.title, trouble)


def _without_secrets(text: str, config: Settings) -> str:
    for secret in (config.slack_webhook_url, config.smtp_password):
        text = text.replace(secret.get_secret_value() or "\0", "***")
    return text
