"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    _create_tracking()
    _create_reccom()
    _create_spools()
    _create_releases()
    _create_looks()


def downgrade() -> None:
    for table in ("looks", "releases", "spools", "reccom", "tracking"):
        op.drop_table(table)


def _create_tracking() -> None:
    op.create_table(
        "tracking",
        sa.Column("version_number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("data_creation", _time, nullable=False, comment="newest event the version was trained on"),
        sa.Column("trained_on", _time, nullable=False, comment="when it was trained"),
        sa.Column("model_rmse", sa.Float(), nullable=False, comment="hold-out RMSE, rating stars"),
        sa.Column("git_commit", sa.String(40), nullable=False, comment="registry commit"),
        sa.Column("run_id", sa.String(250), nullable=False, comment="run that trained it"),
    )


def _create_reccom() -> None:
    op.create_table(
        "reccom",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False, comment="as asked for, cut to 255 characters"),
        sa.Column("served_at", _time, nullable=False),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("replica", sa.String(64), nullable=False),
        sa.Column("source", sa.String(16), nullable=False, comment="rung of the fallback ladder"),
        sa.Column("movie_ids", sa.Text(), nullable=False, comment="best first, comma-separated"),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column(
            "canary_percent",
            sa.SmallInteger(),
            nullable=True,
            comment="split in force; null: asked past NGINX",
        ),
    )
    op.create_index("ix_reccom_version_user", "reccom", ["version_number", "user_id"])
    op.create_index("ix_reccom_user_time", "reccom", ["user_id", "served_at"])


def _create_spools() -> None:
    op.create_table(
        "spools",
        sa.Column("file", sa.String(255), primary_key=True),
        sa.Column("shipped_bytes", sa.BigInteger(), nullable=False),
    )


def _create_releases() -> None:
    op.create_table(
        "releases",
        sa.Column("release_id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), comment="version that served when the release was opened"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False, comment="limits this release is judged by"),
        sa.Column("requested_by", sa.String(250), nullable=False),
        sa.Column("opened_at", _time, nullable=False),
        sa.Column("watch_from", _time, comment="the candidate's own window begins"),
        sa.Column("decided_at", _time),
        sa.Column("verdict", sa.String(24)),
        sa.Column("reason", sa.Text()),
    )


def _create_looks() -> None:
    op.create_table(
        "looks",
        sa.Column("look_id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("release_id", _row_id, sa.ForeignKey("releases.release_id"), nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("measurement", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_index("ix_looks_release", "looks", ["release_id", "at"])
