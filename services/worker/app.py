"""A worker: `celery -A services.worker.app worker`, with the asyncio pool or prefork."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from config.anthropic import AnthropicSettings
from config.celery import CelerySettings
from config.logfire import LogfireSettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from config.research import ResearchSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.db import create_engine
from services.core.queue.app import create_celery_app
from services.core.runs.store import RunStore
from services.pipelines.registry import PIPELINES
from services.pipelines.web import SafeWeb
from services.worker.executor import Outside
from services.worker.runtime import Blueprint, Parts
from services.worker.wiring import wire_worker
