"""Fewer indexes to write for each run that is accepted or claimed.

Processes of the release before go on during a rolling deployment: what they ask is answered, their
lists of runs by a longer way.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    """Drop what no claim reads; leave claimed runs out of runs_owner, new ones out of runs_deadlines."""
    for index in (
        "runs_due",
        "runs_running_by_key",
        "runs_running",
        "runs_owner",
        "runs_deadlines",
    ):
        op.drop_index(index, "runs")
    op.create_index(
        "runs_deadlines",
        "runs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND deadline_at IS NOT NULL"),
    )
    op.create_index(
        "runs_running", "runs", ["key_id", "id"], unique=False, postgresql_where=RUNNING
    )
    op.create_index(
        "runs_owner",
        "runs",
        ["key_id", "id"],
        unique=False,
        postgresql_where=sa.text("state <> 'running'"),
    )


def downgrade() -> None:
    """Make the indexes of the release before."""
    for index in ("runs_running", "runs_owner", "runs_deadlines"):
        op.drop_index(index, "runs")
    op.create_index(
        "runs_deadlines",
        "runs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("runs_owner", "runs", ["key_id", "id"], unique=False)
    op.create_index("runs_running", "runs", ["id"], unique=False, postgresql_where=RUNNING)
    op.create_index(
        "runs_running_by_key", "runs", ["key_id"], unique=False, postgresql_where=RUNNING
    )
    op.create_index(
        "runs_due",
        "runs",
        [sa.literal_column("priority DESC"), "next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND NOT is_isolated"),
    )
