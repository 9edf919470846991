"""Receipts that explain more: what was folded in, every attempt, losses, a version's whole story."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_name = sa.String(64).with_variant(mysql.VARCHAR(64, collation="utf8mb4_bin"), "mysql", "mariadb")


def upgrade() -> None:
    _add_to_tracking()
    _create_lost_receipts()
    _widen_key_of_reccom()


def downgrade() -> None:
    _narrow_key_of_reccom()
    op.drop_table("lost_receipts")
    with op.batch_alter_table("tracking") as tracking:
        for column in ("code_commit", "offsets", "gate_reason", "figures"):
            tracking.drop_column(column)


def _add_to_tracking() -> None:
    with op.batch_alter_table("tracking") as tracking:
        tracking.add_column(sa.Column("figures", sa.JSON(), comment="all that the evaluation measured"))
        tracking.add_column(sa.Column("gate_reason", sa.Text(), comment="why the gate let it pass"))
        tracking.add_column(sa.Column("offsets", sa.JSON(), comment="ranges of the stream it has seen"))
        tracking.add_column(sa.Column("code_commit", sa.String(64), comment="the code that trained it"))


def _create_lost_receipts() -> None:
    op.create_table(
        "lost_receipts",
        sa.Column("lost_id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("replica", _name, nullable=False),
        sa.Column("since", _time, nullable=False),
        sa.Column("until", _time, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False, comment="answers that left no receipt"),
        sa.UniqueConstraint("replica", "since", name="uq_lost_receipts"),
    )


def _widen_key_of_reccom() -> None:
    if op.get_bind().dialect.name == "sqlite":
        watched = sa.Column("watched", sa.Text(), nullable=False, server_default=sa.text("('')"))
        _rebuild_reccom([*_first_columns(), watched], key=["served_at", "request_id", "replica"])
        op.create_index("ix_reccom_request", "reccom", ["request_id"])
        op.create_index("ix_reccom_version_time", "reccom", ["version_number", "served_at"])
    else:
        # One statement, because it copies a table of millions of rows and cannot be rolled back half-way.
        op.execute(
            """
            ALTER TABLE reccom
                MODIFY request_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
                MODIFY user_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
                    COMMENT 'as asked for, cut to 255 characters',
                MODIFY replica VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
                ADD COLUMN watched TEXT NOT NULL DEFAULT ('')
                    COMMENT 'folded in, newest first, comma-separated',
                DROP PRIMARY KEY,
                ADD PRIMARY KEY (served_at, request_id, replica),
                DROP INDEX ix_reccom_version_user,
                ADD INDEX ix_reccom_request (request_id),
                ADD INDEX ix_reccom_version_time (version_number, served_at)
            """
        )


def _narrow_key_of_reccom() -> None:
    _forget_earlier_attempts()
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_reccom(_first_columns(), key=["request_id"])
        op.create_index("ix_reccom_version_user", "reccom", ["version_number", "user_id"])
    else:
        op.execute(
            """
            ALTER TABLE reccom
                DROP INDEX ix_reccom_version_time,
                DROP INDEX ix_reccom_request,
                ADD INDEX ix_reccom_version_user (version_number, user_id),
                DROP PRIMARY KEY,
                ADD PRIMARY KEY (request_id),
                DROP COLUMN watched
            """
        )


def _rebuild_reccom(columns: "list[sa.Column[Any]]", key: list[str]) -> None:
    # SQLite cannot change a primary key in place, and Alembic's batch mode cannot without a warning.
    op.create_table("reccom_rebuilt", *columns, sa.PrimaryKeyConstraint(*key))
    kept = ", ".join(column.name for column in _first_columns())
    op.execute(f"INSERT INTO reccom_rebuilt ({kept}) SELECT {kept} FROM reccom")
    op.drop_table("reccom")
    op.rename_table("reccom_rebuilt", "reccom")
    op.create_index("ix_reccom_user_time", "reccom", ["user_id", "served_at"])


def _first_columns() -> "list[sa.Column[Any]]":
    return [
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("served_at", _time, nullable=False),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("replica", sa.String(64), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("movie_ids", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("canary_percent", sa.SmallInteger(), nullable=True),
    ]


def _forget_earlier_attempts() -> None:
    # MySQL deletes from a table that the condition reads only when a derived table stands between them.
    op.execute(
        """
        DELETE FROM reccom WHERE (request_id, served_at, replica) IN (
            SELECT request_id, served_at, replica FROM (
                SELECT earlier.request_id, earlier.served_at, earlier.replica
                FROM reccom earlier JOIN reccom later ON later.request_id = earlier.request_id
                WHERE (later.served_at, later.replica) > (earlier.served_at, earlier.replica)
            ) attempts
        )
        """
    )
