"""What can be run, and the shapes of what goes in and comes out."""

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel

from services.api.auth import BEARER, KeyedRoute
from services.api.dependencies import Deps
from services.api.errors import NOT_FOUND, NotFoundError
from services.api.openapi import KEYED_PROBLEMS, problems
from services.api.schemas import PipelineInfo, PipelineList
from services.pipelines.definition import Pipeline

router = APIRouter(tags=["pipelines"], route_class=KeyedRoute, dependencies=[BEARER])


@router.get("/v1/pipelines", operation_id="listPipelines", responses=KEYED_PROBLEMS)
async def list_pipelines(deps: Deps) -> PipelineList:
    """List every pipeline."""
    return PipelineList(items=[_describe(pipeline) for pipeline in deps.pipelines.values()])


@router.get(
    "/v1/pipelines/{name}",
    operation_id="getPipeline",
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def get_pipeline(
    name: Annotated[str, Path(examples=["outreach_email"])], deps: Deps
) -> PipelineInfo:
    """Show one pipeline with the JSON Schemas of its input and output."""
    pipeline = deps.pipelines.get(name)
    if pipeline is None:
        raise NotFoundError
    return _describe(pipeline)


def _describe(pipeline: Pipeline[Any]) -> PipelineInfo:
    return PipelineInfo(
        name=pipeline.name,
        description=pipeline.description,
        steps=list(pipeline.step_names),
        input_schema=_schema(pipeline.input_type, "validation"),
        output_schema=_schema(pipeline.output_type, "serialization"),
        input_examples=list(pipeline.input_examples),
    )


@cache
def _schema(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """Made once: that takes milliseconds."""
    return model.model_json_schema(mode=mode)
