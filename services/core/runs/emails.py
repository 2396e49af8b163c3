"""Reading the emails that runs wrote."""

from uuid import UUID

from services.core.db import Database
from services.core.errors import RunNotFoundError
from services.core.pool import Row
from services.core.runs.encoding import (
    decode_time_cursor,
    encode_cursor,
    encode_json,
    storable_text,
)
from services.core.runs.models import Email, Json, Page
from services.core.runs.sql import statement

GET_EMAIL = statement("SELECT * FROM emails WHERE id = :email_id AND key_id = :key_id")

LIST_EMAILS = statement(
    """
    SELECT * FROM emails
     WHERE key_id = :key_id
       AND (CAST(:template_type AS text) IS NULL OR template_type = :template_type)
       AND (CAST(:run_id AS uuid) IS NULL OR run_id = :run_id)
       AND (CAST(:metadata AS jsonb) IS NULL OR metadata @> CAST(:metadata AS jsonb))
       AND (CAST(:before_at AS timestamptz) IS NULL
            OR (created_at, id) < (CAST(:before_at AS timestamptz), CAST(:before_id AS uuid)))
     ORDER BY created_at DESC, id DESC
     LIMIT CAST(:up_to AS bigint)
    """
)


class EmailReader:
    """Reads emails. RunStore says what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_email(self, key_id: UUID, email_id: UUID) -> Email:
        """One email of a key."""
        rows = await self._database.fetch(GET_EMAIL, {"key_id": key_id, "email_id": email_id})
        if not rows:
            message = "There is no such email."
            raise RunNotFoundError(message)
        return _email(rows[0])

    async def list_emails(
        self,
        key_id: UUID,
        *,
        template_type: str | None,
        run_id: UUID | None,
        metadata: Json | None,
        cursor: str | None,
        limit: int,
    ) -> Page[Email]:
        """Emails of a key, newest first."""
        before_at, before_id = (None, None) if cursor is None else decode_time_cursor(cursor)
        rows = await self._database.fetch(
            LIST_EMAILS,
            {
                "key_id": key_id,
                "template_type": None if template_type is None else storable_text(template_type),
                "run_id": run_id,
                "metadata": None if metadata is None else encode_json(metadata),
                "before_at": before_at,
                "before_id": before_id,
                "up_to": limit + 1,
            },
        )
        found = tuple(_email(row) for row in rows[:limit])
        is_last = len(rows) <= limit
        cursor_after = None if is_last else encode_cursor(id=found[-1].id, at=found[-1].created_at)
        return Page(found, cursor_after)


def _email(row: Row) -> Email:
    """An email from its row."""
    return Email(
        id=row.id,
        run_id=row.run_id,
        template_type=row.template_type,
        subject=row.subject,
        body=row.body,
        metadata=row.metadata,
        created_at=row.created_at,
    )
