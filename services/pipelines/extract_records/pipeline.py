"""The extract_records pipeline."""

from services.pipelines.definition import Pipeline, Step
from services.pipelines.extract_records.extract import extract
from services.pipelines.extract_records.read_sources import read_sources
from services.pipelines.extract_records.schemas import ExtractedRecords

EXTRACT_RECORDS: Pipeline[ExtractedRecords] = Pipeline(
    name="extract_records",
    description=(
        "Extracts records that fit a JSON Schema of yours from up to 20 web pages and 20 texts, "
        "checks each against the schema and has those corrected that do not fit."
    ),
    steps=(Step(read_sources), Step(extract)),
    input_examples=(
        {
            "schema": {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "year": {"type": "integer", "minimum": 1400, "maximum": 2100},
                    "publisher": {"type": ["string", "null"]},
                },
                "required": ["title", "year"],
            },
            "texts": [
                (
                    "Title: The Lanternmaker's Ledger\nYear: 2021\nPublisher: Quill & Harbour Press\n\n"
                    "Title: A Map of Quiet Rivers\nYear: 2024"
                )
            ],
            "instructions": "One record for each book.",
        },
    ),
)
