"""Hints: the Celery app, the contracts of its queues, and what sends to them."""
