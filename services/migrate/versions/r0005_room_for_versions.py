"""Room on the pages of steps and of two primary keys for the next versions of their rows.

It is for pages that are written from now on, and locks out nobody who reads or writes.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROOMY = ("TABLE steps", "INDEX steps_pkey", "INDEX runs_pkey")


def upgrade() -> None:
    """Leave room: a claim that finds none writes other pages, and splits those of an index."""
    for relation in ROOMY:
        op.execute(f"ALTER {relation} SET (fillfactor = 60)")


def downgrade() -> None:
    """Fill pages as PostgreSQL does by itself."""
    for relation in ROOMY:
        op.execute(f"ALTER {relation} RESET (fillfactor)")
