"""The pipelines that exist: one line each."""

from typing import Any

from services.pipelines.definition import Pipeline
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS

PIPELINES: dict[str, Pipeline[Any]] = {
    EXTRACT_RECORDS.name: EXTRACT_RECORDS,
    OUTREACH_EMAIL.name: OUTREACH_EMAIL,
    SUMMARIZE_DOCUMENTS.name: SUMMARIZE_DOCUMENTS,
}
