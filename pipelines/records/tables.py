"""The tables of the records database; migrations under ``migrations/`` bring them into being.

All times are UTC, stored without zone. ``reccom`` and ``tracking`` carry the names of the ancestor, so
its join query runs as written.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.mysql import DATETIME, VARCHAR

metadata = MetaData()

# SQLite counts rows by itself only in a column that is INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

# MySQL rounds a plain DATETIME to whole seconds.
_Time = DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")

# MySQL by itself takes "a" and "A" for the same.
_BINARY = "utf8mb4_bin"
_Name = String(64).with_variant(VARCHAR(64, collation=_BINARY), "mysql", "mariadb")
_UserId = String(255).with_variant(VARCHAR(255, collation=_BINARY), "mysql", "mariadb")

tracking = Table(
    "tracking",
    metadata,
    Column("version_number", Integer, primary_key=True, autoincrement=False),
    Column("data_creation", _Time, nullable=False, comment="newest event the version was trained on"),
    Column("trained_on", _Time, nullable=False, comment="when it was trained"),
    Column("model_rmse", Float, nullable=False, comment="hold-out RMSE, rating stars"),
    Column("git_commit", String(40), nullable=False, comment="registry commit"),
    Column("run_id", String(250), nullable=False, comment="run that trained it"),
    Column("figures", JSON(none_as_null=True), nullable=True, comment="all that the evaluation measured"),
    Column("gate_reason", Text, nullable=True, comment="why the gate let it pass"),
    Column("offsets", JSON(none_as_null=True), nullable=True, comment="ranges of the stream it has seen"),
    Column("code_commit", String(64), nullable=True, comment="the code that trained it"),
)

reccom = Table(
    "reccom",
    metadata,
    # Time comes first: InnoDB keeps rows in the order of this key, so new ones go to the end and old ones
    # leave from the front. By the random request ids each row would cost a page.
    Column("served_at", _Time, primary_key=True),
    Column("request_id", _Name, primary_key=True),
    Column("replica", _Name, primary_key=True),
    Column("version_number", Integer, nullable=False),
    Column("user_id", _UserId, nullable=False, comment="as asked for, cut to 255 characters"),
    Column("arm", String(16), nullable=False),
    Column("source", String(16), nullable=False, comment="rung of the fallback ladder"),
    Column("movie_ids", Text, nullable=False, comment="best first, comma-separated"),
    Column("latency_ms", Float, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("canary_percent", SmallInteger, nullable=True, comment="split in force; null: asked past NGINX"),
    Column(
        "watched",
        Text,
        nullable=False,
        server_default=text("('')"),
        comment="folded in, newest first, comma-separated",
    ),
    Index("ix_reccom_request", "request_id"),
    Index("ix_reccom_user_time", "user_id", "served_at"),
    Index("ix_reccom_version_time", "version_number", "served_at"),
)
"""One row an answer. NGINX asks another replica when one dies before its answer is out; both leave a receipt
of the same request, and the latest is the answer that the viewer got."""

lost_receipts = Table(
    "lost_receipts",
    metadata,
    Column("lost_id", _RowId, primary_key=True, autoincrement=True),
    Column("replica", _Name, nullable=False),
    Column("since", _Time, nullable=False),
    Column("until", _Time, nullable=False),
    Column("count", Integer, nullable=False, comment="answers that left no receipt"),
    UniqueConstraint("replica", "since", name="uq_lost_receipts"),
)

spools = Table(
    "spools",
    metadata,
    Column("file", String(255), primary_key=True),
    Column("shipped_bytes", BigInteger, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("release_id", _RowId, primary_key=True, autoincrement=True),
    Column("version", Integer, nullable=False),
    Column("previous", Integer, nullable=True, comment="version that served when the release was opened"),
    Column("state", String(16), nullable=False),
    Column("plan", JSON, nullable=False, comment="limits this release is judged by"),
    Column("requested_by", String(250), nullable=False),
    Column("run_url", Text, nullable=True, comment="page of the run that carries it out"),
    Column("opened_at", _Time, nullable=False),
    Column("watch_from", _Time, nullable=True, comment="the candidate's own window begins"),
    Column("decided_at", _Time, nullable=True),
    Column("verdict", String(24), nullable=True),
    Column("reason", Text, nullable=True),
    Column("served_from", _Time, nullable=True, comment="all viewers had it; its guard begins"),
    Column("reverted_because", Text, nullable=True, comment="why the guard took it back"),
    Column("ended_at", _Time, nullable=True, comment="nothing is left to be done for it"),
    Column("image", String(80), nullable=True, comment="digest of the image its replicas are made of"),
)

looks = Table(
    "looks",
    metadata,
    Column("look_id", _RowId, primary_key=True, autoincrement=True),
    Column("release_id", _RowId, ForeignKey("releases.release_id"), nullable=False),
    Column("at", _Time, nullable=False),
    Column("measurement", JSON, nullable=False),
    Column("verdict", String(24), nullable=False),
    Column("reason", Text, nullable=False),
    Column("readings", JSON(none_as_null=True), nullable=True, comment="each rule with value and limit"),
    Column("progress", Float, nullable=True, comment="share of the answers needed for a verdict"),
    Column("guard", Boolean, nullable=True, comment="after the promotion; null or false: at the canary"),
    Index("ix_looks_release", "release_id", "at"),
)

interventions = Table(
    "interventions",
    metadata,
    Column("intervention_id", _RowId, primary_key=True, autoincrement=True),
    Column("request", String(250), nullable=False, unique=True, comment="asked once, done once"),
    Column("release_id", _RowId, ForeignKey("releases.release_id"), nullable=False),
    Column("at", _Time, nullable=False),
    Column("who", String(250), nullable=False),
    Column("what", String(16), nullable=False, comment="approve, extend or abort"),
    Column("why", Text, nullable=False),
    Column("seconds", Float, nullable=False, comment="by how much the window was extended"),
    Index("ix_interventions_release", "release_id", "at"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("key", String(100), primary_key=True, comment="what was told: told once"),
    Column("title", Text, nullable=False),
    Column("sent_at", _Time, nullable=False),
)

drills = Table(
    "drills",
    metadata,
    Column("drill_id", _RowId, primary_key=True, autoincrement=True),
    Column("run", String(250), nullable=False, comment="the drill it belongs to"),
    Column("fault", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", _Time, nullable=False),
    Column("instrument", String(16), nullable=False, comment="what was tried: preflight or watch"),
    Column("caught", Boolean, nullable=False, comment="whether it saw the fault"),
    Column("verdict", String(24), nullable=False),
    Column("reason", Text, nullable=False),
    Column("after_s", Float, nullable=False, comment="from the first answer to the verdict"),
    Column("answers", Integer, nullable=False, comment="answers of the candidate until then"),
)
