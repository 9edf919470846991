"""E-mail through the SMTP provider, with a plain text beside the HTML that it sends."""

from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from hashlib import sha256
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook

from pipelines.alerts import Alert


class MailHook(SmtpHook):
    """Sends one mail whose ``text`` stands before the HTML; readers show the last part that they can."""

    def __init__(self, smtp_conn_id: str, *, text: str) -> None:
        super().__init__(smtp_conn_id)
        self._text = text

    def _build_mime_message(self, *args: Any, **kwargs: Any) -> tuple[MIMEMultipart, list[str]]:
        message, recipients = super()._build_mime_message(*args, **kwargs)
        parts: list[Any] = message.get_payload()  # type: ignore[assignment]
        parts.insert(0, MIMEText(self._text, "plain", "utf-8"))
        return message, recipients


def headers(alert: Alert) -> dict[str, str]:
    """Return the Message-ID of an alert with a key: sent twice, it is one mail to a mailbox.

    The text counts, too: a ledger that began anew has the keys of the old one, and no mail must be lost.
    """
    digest = sha256(alert.text.encode()).hexdigest()[:16]
    return {"Message-ID": f"<{alert.key}.{digest}@marquee>"} if alert.key else {}
