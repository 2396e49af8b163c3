"""A worker with the pipelines of the benchmarks."""

from tests.bench.pipelines import register

register()

from services.worker.app import app  # noqa: E402 - after the pipelines

__all__ = ["app"]
