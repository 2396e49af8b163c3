"""A process with wrong settings ends with a line per problem."""

from pathlib import Path

import pytest

from config.api import ApiSettings
from config.celery import CelerySettings
from config.environment import EnvironmentSettings
from config.flower import FlowerSettings
from config.loading import EX_CONFIG, load
from config.redis import RedisSettings
from config.sources import Settings

KEY = "psk_0123456789ab_" + "A" * 43


def _refusal(model: type[Settings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        load(model)
    assert ended.value.code == EX_CONFIG
    return capsys.readouterr().err.splitlines()


def test_good_settings_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said when all is well."""
    monkeypatch.setenv("REDIS_PORT", "7000")

    assert load(RedisSettings).port == 7000


def test_each_problem_gets_a_line_with_variable_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All problems are told at once, not one per start."""
    monkeypatch.setenv("REDIS_PORT", "99999")
    monkeypatch.setenv("REDIS_TLS", "maybe")

    assert _refusal(RedisSettings, capsys) == [
        (
            "settings: REDIS_PORT=99999: input should be less than or equal to 65535; "
            "correct it, or remove it to get 6379"
        ),
        (
            "settings: REDIS_TLS=maybe: input should be a valid boolean, unable to interpret input; "
            "correct it, or remove it to get False"
        ),
    ]


def test_limits_out_of_order_name_both_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A problem between two settings says which two."""
    monkeypatch.setenv("CELERY_STEP_TIMEOUT_S", "600")

    assert _refusal(CelerySettings, capsys) == [
        (
            "settings: CELERY_STEP_TIMEOUT_S=600 must be below CELERY_TASK_SOFT_TIME_LIMIT_S=600; "
            "lower the first or raise the second"
        )
    ]


def test_an_unknown_environment_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable at fault is named, whichever model was asked for."""
    monkeypatch.setenv("PENSTOCK_ENV", "prod")

    for model in (EnvironmentSettings, RedisSettings):
        (line,) = _refusal(model, capsys)
        assert line.startswith("settings: PENSTOCK_ENV=prod: ")


@pytest.mark.parametrize("deployed", ["staging", "production"])
@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("", "is missing"),
        ("changeme-changeme-1", "is a placeholder"),
        ("hunter2", "is too short: 7 characters, at least 16"),
        ("penstock-2026-11-05", "is easy to guess"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaa", "is easy to guess"),
    ],
)
def test_weak_secrets_are_refused_where_it_is_deployed(
    deployed: str,
    password: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Outside development a weak password stops the process, and is not printed."""
    monkeypatch.setenv("PENSTOCK_ENV", deployed)
    monkeypatch.setenv("FLOWER_PASSWORD", password)

    (line,) = _refusal(FlowerSettings, capsys)

    remedy = "put what `openssl rand -hex 24` prints into .env, then `make up`"
    assert line == f"settings: FLOWER_PASSWORD {problem}; {remedy}"


@pytest.mark.parametrize("password", ["", "changeme"])
def test_weak_secrets_will_do_in_development(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop needs no ceremony."""
    monkeypatch.setenv("PENSTOCK_ENV", "development")
    monkeypatch.setenv("FLOWER_PASSWORD", password)

    assert load(FlowerSettings).user == "penstock"


def test_generated_secrets_are_strong_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make secrets` may write passes in production."""
    monkeypatch.setenv("PENSTOCK_ENV", "production")
    monkeypatch.setenv("FLOWER_PASSWORD", "b1946ac92492d2347c6235b4d2611184")

    assert load(FlowerSettings).password is not None


def test_a_malformed_initial_key_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key cut off while copying is noticed before anybody tries to log in with it."""
    monkeypatch.setenv("API_INITIAL_KEY", KEY[:-1])

    (line,) = _refusal(ApiSettings, capsys)

    assert line.startswith("settings: API_INITIAL_KEY is not a key of the form psk_")
    assert KEY[:-1] not in line


def test_a_well_formed_initial_key_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form is the one that `make secrets` writes."""
    monkeypatch.setenv("API_INITIAL_KEY", KEY)

    assert load(ApiSettings).initial_key is not None


def test_an_unreadable_secret_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that belong to another user are the usual slip with numeric users in containers."""
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "flower_password").write_text("secret")
    monkeypatch.setattr(Path, "read_text", refuse)

    assert _refusal(FlowerSettings, capsys) == [
        (
            f"settings: {tmp_path / 'flower_password'}: cannot be read (Permission denied); "
            "check the owner and mode of the secret file"
        )
    ]
