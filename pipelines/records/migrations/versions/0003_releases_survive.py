"""Releases that survive: each look with its readings, what persons did, alerts told once, fire drills."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_time = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    with op.batch_alter_table("releases") as releases:
        releases.add_column(sa.Column("run_url", sa.Text(), comment="page of the run that carries it out"))
        served_from = "all viewers had it; its guard begins"
        releases.add_column(sa.Column("served_from", _time, comment=served_from))
        releases.add_column(sa.Column("reverted_because", sa.Text(), comment="why the guard took it back"))
        releases.add_column(sa.Column("ended_at", _time, comment="nothing is left to be done for it"))
    # Before there were guards nothing was left to be done after a decision.
    op.execute("UPDATE releases SET ended_at = decided_at WHERE state IN ('promoted', 'aborted')")
    with op.batch_alter_table("looks") as looks:
        looks.add_column(sa.Column("readings", sa.JSON(), comment="each rule with value and limit"))
        looks.add_column(
            sa.Column("progress", sa.Float(), comment="share of the answers needed for a verdict")
        )
        guard = "after the promotion; null or false: at the canary"
        looks.add_column(sa.Column("guard", sa.Boolean(), comment=guard))
    _create_interventions()
    op.create_table(
        "alerts",
        sa.Column("key", sa.String(100), primary_key=True, comment="what was told: told once"),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("sent_at", _time, nullable=False),
    )
    _create_drills()


def downgrade() -> None:
    for table in ("drills", "alerts", "interventions"):
        op.drop_table(table)
    with op.batch_alter_table("looks") as looks:
        for column in ("guard", "progress", "readings"):
            looks.drop_column(column)
    with op.batch_alter_table("releases") as releases:
        for column in ("ended_at", "reverted_because", "served_from", "run_url"):
            releases.drop_column(column)


def _create_interventions() -> None:
    op.create_table(
        "interventions",
        sa.Column("intervention_id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("request", sa.String(250), nullable=False, unique=True, comment="asked once, done once"),
        sa.Column("release_id", _row_id, sa.ForeignKey("releases.release_id"), nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("who", sa.String(250), nullable=False),
        sa.Column("what", sa.String(16), nullable=False, comment="approve, extend or abort"),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False, comment="by how much the window was extended"),
    )
    op.create_index("ix_interventions_release", "interventions", ["release_id", "at"])


def _create_drills() -> None:
    op.create_table(
        "drills",
        sa.Column("drill_id", _row_id, primary_key=True, autoincrement=True),
        sa.Column("run", sa.String(250), nullable=False, comment="the drill it belongs to"),
        sa.Column("fault", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("instrument", sa.String(16), nullable=False, comment="what was tried: preflight or watch"),
        sa.Column("caught", sa.Boolean(), nullable=False, comment="whether it saw the fault"),
        sa.Column("verdict", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("after_s", sa.Float(), nullable=False, comment="from the first answer to the verdict"),
        sa.Column("answers", sa.Integer(), nullable=False, comment="answers of the candidate until then"),
    )
