"""Reading settings when a process starts: they fit, or the process ends with a line per problem."""

import sys
from typing import Any, Final, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from config.environment import EnvironmentSettings
from config.sources import Settings

EX_CONFIG: Final = 78
"""Exit status of a process whose settings are wrong (sysexits.h)."""

SettingsT = TypeVar("SettingsT", bound=Settings)


def load(model: type[SettingsT]) -> SettingsT:
    """Settings of one area.

    Raises:
        SystemExit: They are wrong. Each problem was told in a line on stderr: variable, problem, remedy.
    """
    if model is not EnvironmentSettings:
        load(EnvironmentSettings)  # others ask it whether weak secrets will do
    try:
        return model()
    except ValidationError as error:
        lines = [describe_problem(model, problem) for problem in error.errors()]
    except OSError as error:
        lines = [
            f"{error.filename}: cannot be read ({error.strerror}); check the owner and mode of the secret file"
        ]
    for line in lines:
        print(f"settings: {line}", file=sys.stderr)  # noqa: T201 - before logging is set up
    raise SystemExit(EX_CONFIG)


def describe_problem(model: type[Settings], problem: ErrorDetails) -> str:
    """A line that names the variable, what is wrong with it and what to do."""
    cause = problem.get("ctx", {}).get("error")
    names = [part for part in problem["loc"][:1] if isinstance(part, str)]
    if not names:  # about several fields at once: the message names them
        return str(cause or problem["msg"])
    field = _field_of(model, names[0])
    variable = model.variable_of(field)
    if cause is not None:
        return f"{variable} {cause}"
    shown = "" if _is_secret(model, field) else f"={problem['input']}"
    default = model.model_fields[field].default
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{variable}{shown}: {message}; correct it, or remove it to get {default}"


def _field_of(model: type[Settings], name: str) -> str:
    """The field that an error is about: pydantic names it by its alias if it has one."""
    return next(
        field
        for field in model.model_fields
        if name in (field, model.model_fields[field].validation_alias)
    )


def _is_secret(model: type[Settings], field: str) -> bool:
    annotation: Any = model.model_fields[field].annotation
    return annotation is SecretStr or SecretStr in getattr(annotation, "__args__", ())
