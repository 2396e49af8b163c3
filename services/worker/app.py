"""A worker: `celery -A services.worker.app worker`, on the asyncio pool or on prefork."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from config.anthropic import AnthropicSettings
from config.celery import CelerySettings
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

redis_settings = RedisSettings()
celery_settings = CelerySettings()
postgres_settings = PostgresSettings()
anthropic_settings = AnthropicSettings()
research_settings = ResearchSettings()


@asynccontextmanager
async def open_parts() -> AsyncIterator[Parts]:
    """Open PostgreSQL, Claude and the web, and close them."""
    async with AsyncExitStack() as exits:
        engine = create_engine(postgres_settings)
        exits.push_async_callback(engine.dispose)
        claude = AnthropicClaude(anthropic_settings)
        exits.push_async_callback(claude.aclose)
        web = SafeWeb(
            timeout_s=research_settings.timeout_s,
            max_page_bytes=research_settings.max_page_bytes,
            allowed_private_hosts=research_settings.allowed_private_hosts,
        )
        exits.push_async_callback(web.aclose)
        outside = Outside(claude=claude, web=web, arxiv_url=research_settings.arxiv_url)
        yield Parts(RunStore(engine), outside)


app = wire_worker(
    Blueprint(
        app=create_celery_app(redis_settings, celery_settings),
        settings=celery_settings,
        pipelines=PIPELINES,
        open_parts=open_parts,
    )
)
