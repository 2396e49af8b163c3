"""SQL gets its states from the transition table."""

from services.core.runs.sql import statement


def test_names_of_states_become_literals() -> None:
    """PostgreSQL sees the literal that its partial indexes have; parameters and casts stay."""
    sql = (
        "state IN :cancel_sources AND a = :claim_target AND b::text = :b AND c = :event_run_queued"
    )

    text = statement(sql).text

    expected = (
        "state IN ('queued', 'running') AND a = 'running' AND b::text = :b AND c = 'run.queued'"
    )
    assert expected == text
