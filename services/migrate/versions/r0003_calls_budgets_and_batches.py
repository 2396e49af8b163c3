"""Keep each call to Claude, budgets of keys, limits of models, and batches of runs.

Only adds, so that processes of the release before go on during a rolling deployment: they ignore
budgets and fairness, and what they insert is executed live.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
ZERO = sa.text("0")
OWED = ("reserved_usd", "doubtful_usd")


def _moment(name: str, *, is_optional: bool = False) -> sa.Column[object]:
    """A time with zone; now unless told otherwise, or empty."""
    timestamp = sa.DateTime(timezone=True)
    if is_optional:
        return sa.Column(name, timestamp)
    return sa.Column(name, timestamp, server_default=NOW, nullable=False)


def _counts(*names: str) -> tuple[sa.Column[object], ...]:
    """Tokens that were used."""
    return tuple(
        sa.Column(name, sa.BigInteger(), server_default=ZERO, nullable=False) for name in names
    )


def _sums(*names: str) -> tuple[sa.Column[object], ...]:
    """Exact US dollars."""
    return tuple(
        sa.Column(name, sa.Numeric(), server_default=ZERO, nullable=False) for name in names
    )


def upgrade() -> None:
    """Add columns, tables and indexes."""
    op.add_column("api_keys", sa.Column("daily_budget_usd", sa.Numeric()))
    op.add_column("api_keys", sa.Column("max_running", sa.Integer()))
    _create_batches()
    _extend_runs()
    _create_calls()
    _create_doubtful_calls()
    op.create_table(
        "key_days",
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC"),
        *_counts(
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ),
        *_sums("cost_usd", *OWED),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("key_days_key_id_fkey")),
        sa.PrimaryKeyConstraint("key_id", "day", name=op.f("key_days_pkey")),
    )
    op.create_table(
        "claude_limits",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", JSONB, nullable=False),
        _moment("updated_at"),
        sa.PrimaryKeyConstraint("model", name=op.f("claude_limits_pkey")),
    )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("request_hash", sa.LargeBinary()),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("total", sa.Integer(), nullable=False, comment="rows, bad ones included"),
        sa.Column("rejected", sa.Integer(), nullable=False, comment="bad rows: no run"),
        _moment("created_at"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("batches_key_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
    )
    op.create_index(
        "batches_idempotency",
        "batches",
        ["key_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index("batches_owner", "batches", ["key_id", "id"], unique=False)
    op.create_table(
        "batch_errors",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False, comment="1, 2, 3, ... as the client sent"),
        sa.Column("number", sa.SmallInteger(), nullable=False, comment="1, 2, ... within the row"),
        sa.Column("field", sa.Text(), nullable=False, comment="JSON pointer into the input"),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
            name=op.f("batch_errors_batch_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("batch_id", "row", "number", name=op.f("batch_errors_pkey")),
    )


def _extend_runs() -> None:
    op.add_column(
        "runs",
        sa.Column(
            "mode",
            sa.Text(),
            server_default=sa.text("'live'"),
            nullable=False,
            comment="how it asks Claude: live, or batch (Message Batches)",
        ),
    )
    op.add_column("runs", sa.Column("batch_id", sa.Uuid()))
    op.add_column("runs", sa.Column("batch_row", sa.Integer()))
    for column in _sums(*OWED):
        op.add_column("runs", column)
    op.create_foreign_key(op.f("runs_batch_id_fkey"), "runs", "batches", ["batch_id"], ["id"])
    op.create_index(
        "runs_batch",
        "runs",
        ["batch_id", "batch_row"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "runs_due_by_key",
        "runs",
        ["key_id", sa.literal_column("priority DESC"), "next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND NOT is_isolated"),
    )
    op.create_index(
        "runs_running_by_key",
        "runs",
        ["key_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )


def _create_calls() -> None:
    op.create_table(
        "message_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("claude_id", sa.Text(), comment="empty until Claude has answered"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False, comment="calls in it"),
        _moment("created_at"),
        _moment("submitted_at", is_optional=True),
        _moment("polled_at", is_optional=True),
        _moment("ended_at", is_optional=True),
        sa.CheckConstraint(
            "state IN ('submitting', 'submitted', 'ended')",
            name=op.f("message_batches_state_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("message_batches_pkey")),
        sa.UniqueConstraint("claude_id", name=op.f("message_batches_claude_id_key")),
    )
    op.create_table(
        "claude_calls",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("question", sa.LargeBinary(), nullable=False, comment="SHA-256 of what is asked"),
        sa.Column(
            "number",
            sa.SmallInteger(),
            nullable=False,
            comment="0, 1, ... for the same question again",
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reservation", sa.Uuid(), nullable=False, comment="of the call that is open"),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="whose budget it counts against"),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("worst_usd", sa.Numeric(), nullable=False, comment="reserved while it is open"),
        sa.Column("request", JSONB, comment="the parameters; batch mode only"),
        sa.Column("answer", JSONB, comment="what Claude said, or its error"),
        sa.Column("tries", sa.Integer(), server_default=ZERO, nullable=False),
        sa.Column("message_batch_id", sa.Uuid()),
        sa.Column("custom_id", sa.Text(), comment="its name in the message batch"),
        _moment("opened_at"),
        sa.CheckConstraint(
            "state IN ('open', 'waiting', 'submitted', 'answered', 'failed')",
            name=op.f("claude_calls_state_check"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("claude_calls_run_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_batch_id"],
            ["message_batches.id"],
            name=op.f("claude_calls_message_batch_id_fkey"),
        ),
        sa.PrimaryKeyConstraint(
            "run_id", "step", "question", "number", name=op.f("claude_calls_pkey")
        ),
        sa.UniqueConstraint("custom_id", name=op.f("claude_calls_custom_id_key")),
    )
    op.create_index(
        "claude_calls_waiting",
        "claude_calls",
        ["opened_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "claude_calls_batch",
        "claude_calls",
        ["message_batch_id"],
        unique=False,
        postgresql_where=sa.text("message_batch_id IS NOT NULL"),
    )


def _create_doubtful_calls() -> None:
    op.create_table(
        "doubtful_calls",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("reservation", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "worst_usd",
            sa.Numeric(),
            nullable=False,
            comment="counted in full until its end is known",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("doubtful_calls_run_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "reservation", name=op.f("doubtful_calls_pkey")),
    )


def downgrade() -> None:
    """Drop them, with what they hold."""
    for table in (
        "claude_limits",
        "key_days",
        "doubtful_calls",
        "claude_calls",
        "message_batches",
    ):
        op.drop_table(table)
    for index in ("runs_running_by_key", "runs_due_by_key", "runs_batch"):
        op.drop_index(index, "runs")
    op.drop_constraint(op.f("runs_batch_id_fkey"), "runs", type_="foreignkey")
    for column in (*OWED, "batch_row", "batch_id", "mode"):
        op.drop_column("runs", column)
    op.drop_table("batch_errors")
    op.drop_table("batches")
    op.drop_column("api_keys", "max_running")
    op.drop_column("api_keys", "daily_budget_usd")
