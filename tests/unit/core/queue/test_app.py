"""The settings that keep Celery safe."""

import ssl

import pytest
from celery import Celery
from pydantic import SecretStr

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.queue.contracts import QUEUE_OF_TASK, QueueName, TaskName


def _app(**redis: object) -> Celery:
    return create_celery_app(RedisSettings(**redis), CelerySettings())


def test_only_json_goes_in_and_out() -> None:
    """Nothing that is unpickled can come from Redis."""
    conf = _app().conf

    assert ["json"] == conf.accept_content
    assert ["json"] == conf.result_accept_content
    assert {"json"} == {conf.task_serializer, conf.result_serializer, conf.event_serializer}


def test_messages_are_acknowledged_late_and_never_redelivered_without_bound() -> None:
    """Late, but a message that kills its process is not given to the next."""
    conf = _app().conf

    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert (1, 100) == (conf.worker_prefetch_multiplier, conf.worker_max_tasks_per_child)


def test_no_task_outlives_the_redelivery_of_its_message() -> None:
    """A healthy task must not be started twice by the broker."""
    settings = CelerySettings()
    conf = create_celery_app(RedisSettings(), settings).conf

    assert settings.task_time_limit_s == conf.task_time_limit
    assert settings.task_soft_time_limit_s == conf.task_soft_time_limit
    assert settings.task_time_limit_s < conf.broker_transport_options["visibility_timeout"]


def test_every_wait_for_redis_is_bounded() -> None:
    """Producers give up within seconds."""
    conf = _app(socket_timeout_s=0.7, connect_timeout_s=0.4).conf
    transport = conf.broker_transport_options

    assert (0.7, 0.4) == (transport["socket_timeout"], transport["socket_connect_timeout"])
    assert (0.7, 0.4) == (conf.redis_socket_timeout, conf.redis_socket_connect_timeout)
    assert 0 == transport["max_retries"]
    assert not conf.task_publish_retry
    assert conf.result_backend_transport_options["retry_policy"]["max_retries"] <= 1


def test_every_task_has_its_queue_and_every_queue_its_own_exchange() -> None:
    """A message for one queue can never reach another."""
    app = _app()
    queues = app.amqp.queues

    assert set(QueueName) == set(queues)
    assert {str(queue) for queue in QueueName} == {q.exchange.name for q in queues.values()}
    for task, queue in QUEUE_OF_TASK.items():
        assert queue == app.amqp.router.route({}, task)["queue"].name
    assert TaskName.PROBE_WORKER not in QUEUE_OF_TASK


def test_a_priority_cannot_split_a_queue() -> None:
    """kombu would keep a list per priority, which no depth and no fairness here accounts for."""
    assert [0] == _app().conf.broker_transport_options["priority_steps"]


def test_tls_verifies_the_server() -> None:
    """Broker and results alike, with the CA bundle if there is one."""
    conf = _app(tls=True, tls_ca_file="/ca.pem").conf
    expected = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"}

    assert conf.broker_url.startswith("rediss://")
    assert expected == conf.broker_use_ssl
    assert expected == conf.redis_backend_use_ssl


def test_without_tls_none_is_asked_for() -> None:
    """Plain Redis stays plain."""
    conf = _app().conf

    assert not conf.broker_use_ssl
    assert not conf.redis_backend_use_ssl


def test_sentinel_gets_the_masters_name_and_its_own_bounds() -> None:
    """Finding the master needs its name; asking the Sentinels is bounded too."""
    conf = _app(
        sentinels=("a:26379", "b:26379"), sentinel_master="main", password=SecretStr("x y")
    ).conf

    assert "sentinel://:x%20y@a:26379/0;sentinel://:x%20y@b:26379/0" == conf.broker_url
    for options in (conf.broker_transport_options, conf.result_backend_transport_options):
        assert "main" == options["master_name"]
        assert {"socket_timeout", "password"} <= set(options["sentinel_kwargs"])


@pytest.mark.parametrize(("backoff_s", "expected"), [(0.2, 1), (1, 1), (4, 4)])
def test_backoff_comes_from_the_settings(backoff_s: float, expected: int) -> None:
    """Celery counts whole seconds."""
    app = create_celery_app(RedisSettings(), CelerySettings(retry_backoff_s=backoff_s))

    assert expected == app.Task.retry_backoff


def test_building_an_app_connects_to_nothing() -> None:
    """It can be imported and built where there is no Redis."""
    app = _app(host="127.0.0.1", port=1)

    assert "penstock" == app.main
