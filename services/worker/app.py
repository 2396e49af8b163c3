"""A worker: `python -m services.worker`, on the asyncio pool or on prefork."""

from services.worker import boot  # isort: split

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from config.anthropic import AnthropicSettings
from config.celery import CelerySettings
from config.limits import LimitSettings
from config.loading import load
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from config.research import ResearchSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.live_text.client import create_client
from services.core.queue.app import create_celery_app
from services.pipelines.registry import PIPELINES
from services.pipelines.web import SafeWeb
from services.worker.batch_courier import Batching
from services.worker.executor import Outside
from services.worker.live_text import TextSender
from services.worker.record import open_limiter, open_store
from services.worker.runtime import Blueprint, Parts
from services.worker.wiring import wire_worker

redis_settings = load(RedisSettings)
celery_settings = load(CelerySettings)
postgres_settings = load(PostgresSettings)
anthropic_settings = load(AnthropicSettings)
research_settings = load(ResearchSettings)
limit_settings = load(LimitSettings)


def create_web() -> SafeWeb:
    """The web, within the bounds of the settings."""
    return SafeWeb(
        timeout_s=research_settings.timeout_s,
        max_page_bytes=research_settings.max_page_bytes,
        allowed_private_hosts=research_settings.allowed_private_hosts,
    )


@asynccontextmanager
async def open_parts() -> AsyncIterator[Parts]:
    """The record, Claude, the web and live texts, closed in the end."""
    async with AsyncExitStack() as exits:
        store = open_store(postgres_settings, celery_settings)
        limiter = open_limiter(store, limit_settings)
        claude, web = AnthropicClaude(anthropic_settings), create_web()
        batching = Batching.by_settings(anthropic_settings)
        texts = TextSender(create_client(redis_settings), db=redis_settings.db)
        closings = (
            store.close,
            limiter.drain,
            claude.aclose,
            batching.claude.aclose,
            web.aclose,
            texts.close,
        )
        for closing in closings:
            exits.push_async_callback(closing)
        outside = Outside(claude, web, research_settings.arxiv_url)
        yield Parts(store, outside, batching, texts, limiter)


app = wire_worker(
    Blueprint(
        app=create_celery_app(redis_settings, celery_settings),
        settings=celery_settings,
        pipelines=PIPELINES,
        open_parts=open_parts,
    )
)
boot.end()
