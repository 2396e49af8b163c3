"""The record's tables. services/migrate/versions creates them; a test holds both equal."""

from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.event import listen

from services.core.runs.states import CallState, MessageBatchState, RunState, StepState

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

NOW = text("now()")
ZERO = text("0")


def _one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    """A check that the column holds one of the enumeration's values."""
    values = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def _moment(name: str, *, is_optional: bool = False) -> Column[object]:
    """A time with zone; now unless told otherwise, or empty."""
    if is_optional:
        return Column(name, DateTime(timezone=True))
    return Column(name, DateTime(timezone=True), nullable=False, server_default=NOW)


def _cost() -> tuple[Column[object], ...]:
    """What Claude was paid for: tokens, and US dollars (exact, no rounding)."""
    counts = (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    )
    return (
        *(Column(name, BigInteger, nullable=False, server_default=ZERO) for name in counts),
        Column("cost_usd", Numeric, nullable=False, server_default=ZERO),
    )


def _owed() -> tuple[Column[object], ...]:
    """US dollars that calls may still cost: those under way, and those whose end nobody saw."""
    return tuple(
        Column(name, Numeric, nullable=False, server_default=ZERO)
        for name in ("reserved_usd", "doubtful_usd")
    )


api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("prefix", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, comment="SHA-256 of the whole key"),
    _moment("created_at"),
    _moment("revoked_at", is_optional=True),
    Column("daily_budget_usd", Numeric),
    Column("max_running", Integer),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("key_id", Uuid, ForeignKey("api_keys.id"), nullable=False),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("pipeline", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("total", Integer, nullable=False, comment="rows, bad ones included"),
    Column("rejected", Integer, nullable=False, comment="bad rows: no run"),
    _moment("created_at"),
)

Index(
    "batches_idempotency",
    batches.c.key_id,
    batches.c.idempotency_key,
    unique=True,
    postgresql_where=text("idempotency_key IS NOT NULL"),
)
Index("batches_owner", batches.c.key_id, batches.c.id)

batch_errors = Table(
    "batch_errors",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Integer, primary_key=True, comment="1, 2, 3, ... as the client sent"),
    Column("number", SmallInteger, primary_key=True, comment="1, 2, ... within the row"),
    Column("field", Text, nullable=False, comment="JSON pointer into the input"),
    Column("message", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("key_id", Uuid, ForeignKey("api_keys.id"), nullable=False),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("pipeline", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("input", JSONB, nullable=False),
    Column("output", JSONB),
    Column("failure", JSONB),
    Column("metadata", JSONB, nullable=False),
    Column("priority", Integer, nullable=False, server_default=ZERO),
    Column("budget_usd", Numeric),
    *_cost(),
    Column("attempts", Integer, nullable=False, server_default=ZERO, comment="times claimed"),
    Column(
        "crashes", Integer, nullable=False, server_default=ZERO, comment="deaths put down to it"
    ),
    Column(
        "lapses",
        Integer,
        nullable=False,
        server_default=ZERO,
        comment="deaths in a row, since its last checkpoint, that nobody could put down to one run",
    ),
    Column("replays", Integer, nullable=False, server_default=ZERO),
    Column("shape", Text, comment="pipeline and steps; empty if it was accepted before shapes"),
    Column("is_isolated", Boolean, nullable=False, server_default=text("false")),
    Column("fence", BigInteger, nullable=False, server_default=ZERO, comment="only ever grows"),
    Column("lease_owner", Text),
    _moment("lease_until", is_optional=True),
    _moment("next_at"),
    Column(
        "hint_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=NOW,
        comment="when a queued run is to be hinted (again); never before next_at",
    ),
    Column("event_seq", Integer, nullable=False, server_default=ZERO, comment="its last event"),
    Column("traceparent", Text),
    _moment("created_at"),
    _moment("started_at", is_optional=True),
    _moment("finished_at", is_optional=True),
    Column(
        "deadline_at",
        DateTime(timezone=True),
        comment="set with the first claim of an attempt; it fails after that",
    ),
    Column(
        "mode",
        Text,
        nullable=False,
        server_default=text("'live'"),
        comment="how it asks Claude: live, or batch (Message Batches)",
    ),
    Column("batch_id", Uuid, ForeignKey("batches.id")),
    Column("batch_row", Integer),
    *_owed(),
    _one_of("state", RunState),
    # Room on each page for the next version of a row, so that events, heartbeats and checkpoints, which
    # touch no indexed column, write no index (HOT updates). lease_until is in no index for that.
    postgresql_with={"fillfactor": "75"},
)

Index(
    "runs_idempotency",
    runs.c.key_id,
    runs.c.idempotency_key,
    unique=True,
    postgresql_where=text("idempotency_key IS NOT NULL"),
)
Index(
    "runs_due_by_key",
    runs.c.key_id,
    runs.c.priority.desc(),
    runs.c.next_at,
    postgresql_where=text("state = 'queued' AND NOT is_isolated"),
)
Index(
    "runs_batch",
    runs.c.batch_id,
    runs.c.batch_row,
    unique=True,
    postgresql_where=text("batch_id IS NOT NULL"),
)
Index("runs_hints", runs.c.hint_at, postgresql_where=text("state = 'queued'"))
Index(
    "runs_deadlines",
    runs.c.deadline_at,
    postgresql_where=text("state = 'queued' AND deadline_at IS NOT NULL"),
)
# A key's runs are in two indexes, so that a claim writes the small one only: of the large one it would
# read, change and log a page of its own for nearly every run.
Index("runs_running", runs.c.key_id, runs.c.id, postgresql_where=text("state = 'running'"))
Index("runs_owner", runs.c.key_id, runs.c.id, postgresql_where=text("state <> 'running'"))
Index("runs_failed", runs.c.key_id, runs.c.id, postgresql_where=text("state = 'failed'"))

run_history = Table(
    "run_history",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, comment="1, 2, 3, ... within the run"),
    Column("state", Text, nullable=False),
    Column("input", JSONB, nullable=False),
    Column("output", JSONB),
    Column("failure", JSONB),
    Column("steps", JSONB, nullable=False, comment="the rows of its steps, in order"),
    _moment("started_at", is_optional=True),
    _moment("finished_at", is_optional=True),
)

# Steps and events refer to their run without a foreign key: whoever writes them holds the run's row, and
# the trigger `runs_forgotten` takes them along with it. Checking them took a fifth of accepting a run.
steps = Table(
    "steps",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("position", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=ZERO, comment="times started"),
    Column("failures", Integer, nullable=False, server_default=ZERO, comment="tries that failed"),
    _moment("started_at", is_optional=True),
    _moment("finished_at", is_optional=True),
    *_cost(),
    Column("error", Text),
    Column("output", JSONB, comment="the checkpoint; written once"),
    _one_of("state", StepState),
    postgresql_with={"fillfactor": "60"},  # as of runs: for the step's start and its checkpoint
)

# Each start and end of a run is a new version of its row, with a new entry here: a page that is full
# would be searched for dead ones, and split, by the first claim that comes to it.
_ROOM = DDL("ALTER INDEX %(table)s_pkey SET (fillfactor = 60)")  # type: ignore[no-untyped-call]  # it has no types
listen(runs, "after_create", _ROOM)
listen(steps, "after_create", _ROOM)

message_batches = Table(
    "message_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("claude_id", Text, unique=True, comment="empty until Claude has answered"),
    Column("state", Text, nullable=False),
    Column("size", Integer, nullable=False, comment="calls in it"),
    _moment("created_at"),
    _moment("submitted_at", is_optional=True),
    _moment("polled_at", is_optional=True),
    _moment("ended_at", is_optional=True),
    _one_of("state", MessageBatchState),
)

claude_calls = Table(
    "claude_calls",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Text, primary_key=True),
    Column("question", LargeBinary, primary_key=True, comment="SHA-256 of what is asked"),
    Column(
        "number", SmallInteger, primary_key=True, comment="0, 1, ... for the same question again"
    ),
    Column("state", Text, nullable=False),
    Column("reservation", Uuid, nullable=False, comment="of the call that is open"),
    Column("key_id", Uuid, nullable=False),
    Column("day", Date, nullable=False, comment="whose budget it counts against"),
    Column("model", Text, nullable=False),
    Column("worst_usd", Numeric, nullable=False, comment="reserved while it is open"),
    Column("request", JSONB, comment="the parameters; batch mode only"),
    Column("answer", JSONB, comment="what Claude said, or its error"),
    Column("tries", Integer, nullable=False, server_default=ZERO),
    Column("message_batch_id", Uuid, ForeignKey("message_batches.id")),
    Column("custom_id", Text, unique=True, comment="its name in the message batch"),
    _moment("opened_at"),
    _one_of("state", CallState),
)

Index("claude_calls_waiting", claude_calls.c.opened_at, postgresql_where=text("state = 'waiting'"))
Index(
    "claude_calls_batch",
    claude_calls.c.message_batch_id,
    postgresql_where=text("message_batch_id IS NOT NULL"),
)

doubtful_calls = Table(
    "doubtful_calls",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("reservation", Uuid, primary_key=True),
    Column("step", Text, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("day", Date, nullable=False),
    Column("worst_usd", Numeric, nullable=False, comment="counted in full until its end is known"),
)

key_days = Table(
    "key_days",
    metadata,
    Column("key_id", Uuid, ForeignKey("api_keys.id"), primary_key=True),
    Column("day", Date, primary_key=True, comment="UTC"),
    *_cost(),
    *_owed(),
)

claude_limits = Table(
    "claude_limits",
    metadata,
    Column("model", Text, primary_key=True),
    Column("state", JSONB, nullable=False),
    _moment("updated_at"),
)

events = Table(
    "events",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True, comment="1, 2, 3, ... within the run, without gaps"),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    _moment("at"),
)

emails = Table(
    "emails",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("key_id", Uuid, ForeignKey("api_keys.id"), nullable=False),
    Column("template_type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    _moment("created_at"),
)

Index("emails_owner", emails.c.key_id, emails.c.created_at, emails.c.id)
Index(
    "emails_metadata",
    emails.c.metadata,
    postgresql_using="gin",
    postgresql_ops={"metadata": "jsonb_path_ops"},
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("process", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    _moment("at"),
    Column(
        "shapes",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="what it can execute",
    ),
)

sweep_clock = Table(
    "sweep_clock",
    metadata,
    Column(
        "id", SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"
    ),
    _moment("swept_at"),
    Column(
        "steady_since",
        DateTime(timezone=True),
        nullable=False,
        server_default=NOW,
        comment="since when no sweep was missing",
    ),
    CheckConstraint("id = 1", name="id"),
)
