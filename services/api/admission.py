"""What is checked before a run is accepted or replayed."""

from typing import Any

from pydantic import ValidationError

from services.api.dependencies import Dependencies
from services.api.errors import InvalidRequestError, UnknownPipelineError
from services.api.json_values import Json
from services.api.validation import describe_validation
from services.core.errors import ClaudeNotConfiguredError
from services.pipelines.definition import Pipeline


def find_pipeline(deps: Dependencies, name: str) -> Pipeline[Any]:
    """The pipeline of that name.

    Raises:
        UnknownPipelineError: There is none, or none any more.
    """
    pipeline = deps.pipelines.get(name)
    if pipeline is None:
        raise UnknownPipelineError(known=deps.pipelines)
    return pipeline


def check_input(pipeline: Pipeline[Any], run_input: Json) -> None:
    """Check an input as the first step will; the record keeps it as it was sent.

    Raises:
        InvalidRequestError: It does not fit.
    """
    try:
        pipeline.input_type.model_validate(run_input)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        below_input = [{**item, "loc": ("body", "input", *item["loc"])} for item in found]
        raise InvalidRequestError(
            describe_validation(below_input, body={"input": run_input})
        ) from error


def require_claude(deps: Dependencies) -> None:
    """Refuse what nobody could execute: it would wait for ever.

    Raises:
        ClaudeNotConfiguredError: There is no key and no simulator.
    """
    if not deps.anthropic.is_configured:
        raise ClaudeNotConfiguredError
