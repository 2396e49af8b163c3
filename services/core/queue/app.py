"""The Celery app that API, workers, beat and Flower share."""

import ssl
from typing import Any

from celery import Celery, Task
from kombu import Exchange, Queue

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.contracts import QUEUE_OF_TASK, QueueName
from services.core.queue.transport import register_transport

MAX_RETRIES = 5
"""Retries of a task that fails, before it is a FAILURE."""
HEALTH_CHECK_INTERVAL_S = 4
"""Seconds between looks at connections on which nothing comes; kombu's 25 would be a long silence."""
MAX_WAITING_TASKS = 1000
"""Tasks with a start time that one worker holds; only retries have one."""
PROC_ALIVE_TIMEOUT_S = 30.0
"""Seconds that a new prefork child has to start up; Celery's 4 are too few on a busy machine."""


def create_celery_app(
    redis: RedisSettings, celery: CelerySettings, *, name: str = "penstock"
) -> Celery:
    """A Celery app: JSON only, late acknowledgement, bounded waits. Opens no connection."""
    register_transport()
    app = Celery(name, task_cls=_retrying_task(celery))
    app.conf.update(
        _messages(),
        **_broker(redis, celery),
        **_results(redis, celery),
        **_execution(celery),
    )
    return app


def _messages() -> dict[str, Any]:
    """What a message may be and where it goes."""
    return {
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "enable_utc": True,
        "timezone": "UTC",
        # Without an exchange of its own, a queue would share the default queue's, and its messages.
        "task_queues": [Queue(queue, Exchange(queue), queue) for queue in QueueName],
        "task_default_queue": QueueName.DEFAULT,
        "task_create_missing_queues": True,
        "task_routes": {task: {"queue": queue} for task, queue in QUEUE_OF_TASK.items()},
    }


def _broker(redis: RedisSettings, celery: CelerySettings) -> dict[str, Any]:
    """How Redis carries messages; no wait on it is long."""
    return {
        "broker_url": redis.broker_url,
        "broker_use_ssl": _tls(redis),
        "broker_connection_timeout": redis.connect_timeout_s,
        "broker_connection_retry_on_startup": True,
        # A worker waits for Redis for as long as it takes: its runs do not need it.
        "broker_connection_max_retries": None,
        # Also when it answers but refuses (full, read-only, cannot save): that passes.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            **_waits(redis),
            **_sentinel(redis),
            # One list per queue: kombu keeps one per priority, so a message sent with a priority
            # would overtake or starve the others. What runs next is decided in the record.
            "priority_steps": [0],
            # kombu delivers again what was not acknowledged for this long; longer than any task,
            # or a healthy one would start twice. A second hint is harmless, so no tuning is needed.
            "visibility_timeout": int(2 * celery.task_time_limit_s),
            # Without a bound the connection of a producer would be tried again for ever.
            "max_retries": 0,
            # A connection that was cut without a word is noticed after this and two seconds.
            "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        },
        # A hint that cannot be sent now is found by the next sweep.
        "task_publish_retry": False,
    }


def _results(redis: RedisSettings, celery: CelerySettings) -> dict[str, Any]:
    """How Redis keeps task results; runs have none there."""
    return {
        "result_backend": redis.result_url,
        "redis_backend_use_ssl": _tls(redis) or None,
        "redis_socket_timeout": redis.socket_timeout_s,
        "redis_socket_connect_timeout": redis.connect_timeout_s,
        "redis_socket_keepalive": True,
        "result_backend_transport_options": {
            **_sentinel(redis),
            "retry_policy": {"max_retries": 1, "interval_start": 0.1, "timeout": 2.0},
        },
        "result_expires": celery.result_expires_s,
    }


def _execution(celery: CelerySettings) -> dict[str, Any]:
    """How workers and beat execute tasks and show it."""
    return {
        "task_acks_late": True,
        # With it a message that kills its process would be delivered again without bound.
        "task_reject_on_worker_lost": False,
        "task_soft_time_limit": celery.task_soft_time_limit_s,
        "task_time_limit": celery.task_time_limit_s,
        # One message per slot: more would wait here for a busy child while another worker is idle.
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": MAX_WAITING_TASKS,
        "worker_max_tasks_per_child": celery.max_tasks_per_child,
        "worker_proc_alive_timeout": PROC_ALIVE_TIMEOUT_S,
        # A run's lease is in PostgreSQL, so losing Redis is no reason to stop its task.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # worker.probe goes to one worker: the one that sent it.
        "worker_direct": True,
        "worker_send_task_events": True,
        # Each run is reported once, by the worker that executes it; hints are not worth looking at.
        "task_send_sent_event": False,
        # services.core.telemetry sets up logging.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "beat_enable_remote_control": True,
    }


def _waits(redis: RedisSettings) -> dict[str, Any]:
    """Bounds, in seconds, on a frozen or unreachable Redis."""
    return {
        "socket_timeout": redis.socket_timeout_s,
        "socket_connect_timeout": redis.connect_timeout_s,
        "socket_keepalive": True,
    }


def _sentinel(redis: RedisSettings) -> dict[str, Any]:
    """What kombu and Celery need to find the master through Sentinel."""
    if not redis.sentinels:
        return {}
    login = {"password": redis.password.get_secret_value()} if redis.password else {}
    return {
        "master_name": redis.sentinel_master,
        "sentinel_kwargs": {**_waits(redis), **login, **_tls_of_sentinel(redis)},
    }


def _tls_of_sentinel(redis: RedisSettings) -> dict[str, Any]:
    """TLS towards the Sentinels themselves."""
    return {"ssl": True, **_tls(redis)} if redis.tls else {}


def _tls(redis: RedisSettings) -> dict[str, Any]:
    """Verify the server against the given CA bundle, else the system's."""
    if not redis.tls:
        return {}
    ca = {"ssl_ca_certs": redis.tls_ca_file} if redis.tls_ca_file else {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **ca}


def _retrying_task(celery: CelerySettings) -> type[Task[..., Any]]:
    """The base class of tasks: exponential backoff with jitter; Celery has no settings for it.

    Runs do not use it, they wait in the record. The longest delay stays far below the visibility
    timeout, after which kombu would deliver a waiting message a second time.
    """

    class RetryingTask(Task):  # type: ignore[type-arg]  # not generic at run time
        """A task that is tried again, later and later."""

        autoretry_for = (Exception,)
        max_retries = MAX_RETRIES
        retry_backoff = max(1, round(celery.retry_backoff_s))
        retry_backoff_max = int(min(celery.retry_backoff_max_s, celery.task_time_limit_s))
        retry_jitter = True

    return RetryingTask
