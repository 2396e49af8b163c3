"""What can be run."""

import httpx
from jsonschema_rs import validator_for

from services.pipelines.registry import PIPELINES


async def test_a_pipeline_is_described_with_its_schemas(client: httpx.AsyncClient) -> None:
    """Name, steps, shapes and examples: all that a client needs to post a run."""
    described = (await client.get("/v1/pipelines/letter")).json()
    listed = (await client.get("/v1/pipelines")).json()

    assert listed == {"items": [described]}
    assert described["steps"] == ["write_letter"]
    assert described["input_schema"]["required"] == ["name"]
    assert described["output_schema"]["properties"]["text"]["type"] == "string"
    assert described["input_examples"] == [{"name": "Elena"}]


async def test_examples_of_the_real_pipelines_fit_their_schemas() -> None:
    """The docs page offers them."""
    for pipeline in PIPELINES.values():
        schema = pipeline.input_type.model_json_schema()
        assert pipeline.input_examples
        for example in pipeline.input_examples:
            validator_for(schema).validate(example)
            pipeline.input_type.model_validate(example)
