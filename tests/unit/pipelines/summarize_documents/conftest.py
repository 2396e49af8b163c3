"""A whole run of the pipeline, and a Claude that repeats what it reads."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from services.core.claude.protocol import ClaudeRequest
from services.pipelines.definition import StepContext
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from services.pipelines.summarize_documents.schemas import DocumentsSummary

Run = Callable[..., Awaitable[DocumentsSummary]]


def repeat(request: ClaudeRequest) -> dict[str, Any]:
    """The first word of each document as the summary; every document is cited."""
    found = re.findall(r'<document ids?="([\d ]+)"[^>]*>\s*(\S+)', request.prompt)
    return {
        "summary": " ".join(word.removesuffix("</document>") for _, word in found),
        "document_ids": [int(number) for ids, _ in found for number in ids.split()],
    }


@pytest.fixture
def run() -> Run:
    """All steps, with checkpoints read back from JSON as the worker does."""

    async def run_steps(
        context: StepContext, given: dict[str, Any], *, checkpoints: list[Any] | None = None
    ) -> DocumentsSummary:
        value: BaseModel = SUMMARIZE_DOCUMENTS.input_type.model_validate(given)
        for step in SUMMARIZE_DOCUMENTS.steps:
            checkpoint = value.model_dump(mode="json")
            value = await step.function(step.input_type.model_validate(checkpoint), context)
            if checkpoints is not None:
                checkpoints.append(value)
        return DocumentsSummary.model_validate(value.model_dump(mode="json"))

    return run_steps
