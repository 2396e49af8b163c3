"""The summarize_documents pipeline."""

from services.pipelines.definition import Pipeline, Step
from services.pipelines.summarize_documents.combine import combine
from services.pipelines.summarize_documents.read_documents import read_documents
from services.pipelines.summarize_documents.schemas import DocumentsSummary
from services.pipelines.summarize_documents.summarize_each import (
    summarize_first_quarter,
    summarize_last_quarter,
    summarize_second_quarter,
    summarize_third_quarter,
)

SUMMARIZE_DOCUMENTS: Pipeline[DocumentsSummary] = Pipeline(
    name="summarize_documents",
    description=(
        "Summarizes up to 50 web pages or texts, each by itself and all together, and says which "
        "documents the summary draws on."
    ),
    steps=(
        Step(read_documents),
        Step(summarize_first_quarter),
        Step(summarize_second_quarter),
        Step(summarize_third_quarter),
        Step(summarize_last_quarter),
        Step(combine),
    ),
    input_examples=(
        {
            "documents": [
                {"url": "https://en.wikipedia.org/wiki/Penstock"},
                {
                    "title": "Minutes of 3 March",
                    "text": "The committee met at ten. The new penstock will cost 40,000 euros.",
                },
            ],
            "focus": "What does a penstock cost?",
            "length": "short",
        },
    ),
)
