"""The settings as text: .env.example and the tables of docs/configuration.md."""

import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import config
from config.environment import EnvironmentSettings
from config.secrets import GENERATED_BY
from config.sources import Settings

WIDTH = 100
MARKER = "<!-- everything below is written by `make env-example` -->"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable."""

    name: str
    default: str
    """As it would be written in .env; empty for none."""
    is_generated: bool
    """`make secrets` writes it."""
    text: str
    """What it does, in one line."""


def settings_models() -> list[type[Settings]]:
    """Every settings model of this package: the environment first, then by module name."""
    modules = [
        import_module(f"config.{found.name}") for found in pkgutil.iter_modules(config.__path__)
    ]
    models = [
        model
        for module in modules
        for model in vars(module).values()
        if inspect.isclass(model)
        and issubclass(model, Settings)
        and model.__module__ == module.__name__
    ]
    return sorted(
        (m for m in models if m is not Settings),
        key=lambda m: (m is not EnvironmentSettings, m.__module__),
    )


def variables_of(model: type[Settings]) -> Iterator[Variable]:
    """The variables of a model, in the order of its fields."""
    for name, field in model.model_fields.items():
        yield Variable(
            name=model.variable_of(name),
            default=_to_text(field.default),
            is_generated=GENERATED_BY in field.metadata,
            text=" ".join((field.description or "").split()),
        )


def summary_of(model: type[Settings]) -> str:
    """What a model is for: its docstring's first line."""
    return (model.__doc__ or "").strip().splitlines()[0]


def to_env_example() -> str:
    """A .env with every variable, its meaning and its default."""
    lines = [
        "# Settings of Penstock. `make up` writes .env with strong secrets; `make env-example` writes this file from",
        "# config/*.py. Lines that are commented out show the defaults. A secret may also be a file named after its",
        "# variable, in lower case, in the folder SECRETS_DIR (/run/secrets).",
    ]
    for model in settings_models():
        lines += ["", f"# --- {summary_of(model)} ".ljust(WIDTH, "-")]
        for variable in variables_of(model):
            mark = "" if variable.is_generated else "#"
            lines += [f"# {variable.text}", f"{mark}{variable.name}={variable.default}"]
    return "\n".join(lines) + "\n"


def to_markdown() -> str:
    """One table per area."""
    lines: list[str] = []
    for model in settings_models():
        title = model.__name__.removesuffix("Settings")
        lines += [
            f"### {title}",
            "",
            summary_of(model),
            "",
            "| variable | default | meaning |",
            "|---|---|---|",
        ]
        for variable in variables_of(model):
            default = f"`{variable.default}`" if variable.default else ""
            lines.append(f"| `{variable.name}` | {default} | {variable.text} |")
        lines.append("")
    return "\n".join(lines)


def with_tables(document: str) -> str:
    """The document with everything below its marker replaced by the current tables."""
    text, marker, _ = document.partition(MARKER)
    if not marker:
        message = f"the document has no line {MARKER}"
        raise ValueError(message)
    return f"{text}{MARKER}\n\n{to_markdown()}"


def _to_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case Enum():
            return str(value.value)
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)
