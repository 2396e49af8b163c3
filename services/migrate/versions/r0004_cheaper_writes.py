"""Fewer indexes to write and fewer references to check for each run that is accepted or claimed.

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
OF_A_RUN = ("steps", "events")

# What foreign keys with ON DELETE CASCADE would do, but at no cost for those who write.
FORGET = """
    CREATE FUNCTION forget_runs() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM steps USING forgotten WHERE steps.run_id = forgotten.id;
        DELETE FROM events USING forgotten WHERE events.run_id = forgotten.id;
        RETURN NULL;
    END $$
"""
RUNS_FORGOTTEN = """
    CREATE TRIGGER runs_forgotten AFTER DELETE ON runs REFERENCING OLD TABLE AS forgotten
       FOR EACH STATEMENT EXECUTE FUNCTION forget_runs()
"""


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
    op.execute(FORGET)
    op.execute(RUNS_FORGOTTEN)
    for table in OF_A_RUN:
        op.drop_constraint(f"{table}_run_id_fkey", table)


def downgrade() -> None:
    """Make the indexes and references of the release before."""
    for table in OF_A_RUN:
        op.create_foreign_key(
            f"{table}_run_id_fkey", table, "runs", ["run_id"], ["id"], ondelete="CASCADE"
        )
    op.execute("DROP TRIGGER runs_forgotten ON runs")
    op.execute("DROP FUNCTION forget_runs")
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
