"""Tell crashes from lapses, know each run's shape and deadline, keep the history of replays.

Only adds, so that processes of the release before go on during a rolling deployment: what they
insert has no shape, and any worker may claim it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Ended runs get theirs when they are replayed; so this takes no longer for an old record.
SET_SHAPES = """
    UPDATE runs
       SET shape = pipeline || ':' || (
               SELECT string_agg(name, ',' ORDER BY position) FROM steps WHERE run_id = runs.id)
     WHERE state IN ('queued', 'running')
"""


def upgrade() -> None:
    """Add columns, an index and a table."""
    op.alter_column("runs", "crashes", comment="deaths put down to it")
    op.add_column(
        "runs",
        sa.Column(
            "lapses",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="deaths in a row, since its last checkpoint, that nobody could put down to one run",
        ),
    )
    op.add_column(
        "runs",
        sa.Column("replays", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column(
        "runs",
        sa.Column(
            "shape",
            sa.Text(),
            comment="pipeline and steps; empty if it was accepted before shapes",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "deadline_at",
            sa.DateTime(timezone=True),
            comment="set with the first claim of an attempt; it fails after that",
        ),
    )
    op.execute(SET_SHAPES)
    op.create_index(
        "runs_deadlines",
        "runs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "run_history",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="1, 2, 3, ... within the run"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("input", JSONB, nullable=False),
        sa.Column("output", JSONB),
        sa.Column("failure", JSONB),
        sa.Column("steps", JSONB, nullable=False, comment="the rows of its steps, in order"),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("run_history_run_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("run_history_pkey")),
    )
    op.create_table(
        "sweep_clock",
        sa.Column(
            "id",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="1: there is one row",
        ),
        sa.Column(
            "swept_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "steady_since",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="since when no sweep was missing",
        ),
        sa.CheckConstraint("id = 1", name=op.f("sweep_clock_id_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("sweep_clock_pkey")),
    )
    op.add_column(
        "heartbeats",
        sa.Column(
            "shapes",
            ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="what it can execute",
        ),
    )


def downgrade() -> None:
    """Drop them, with the history of replays."""
    op.drop_column("heartbeats", "shapes")
    op.drop_table("sweep_clock")
    op.drop_table("run_history")
    op.drop_index("runs_deadlines", "runs")
    for column in ("deadline_at", "shape", "replays", "lapses"):
        op.drop_column("runs", column)
    op.alter_column("runs", "crashes", comment="leases that lapsed")
