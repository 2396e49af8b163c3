"""The pipelines that exist: one line each."""

from typing import Any

from services.pipelines.definition import Pipeline
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL

PIPELINES: dict[str, Pipeline[Any]] = {pipeline.name: pipeline for pipeline in (OUTREACH_EMAIL,)}
