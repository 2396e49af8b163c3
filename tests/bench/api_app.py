"""The API with the pipelines of the benchmarks."""

from tests.bench.pipelines import register

register()

from services.api.app import create_app  # noqa: E402 - after the pipelines

__all__ = ["create_app"]
