"""Placeholders such as `{{name}}` or `{{ recipient.affiliation }}` in a template."""

import re
from collections.abc import Mapping

MARK = re.compile(r"\{\{|\}\}")
PLACEHOLDER = re.compile(r"(?<!\{)\{\{([^{}]*)\}\}(?!\})")
NAME = re.compile(r"[^\W\d_][\w .'-]{0,79}")
"""A letter first, then up to 79 letters, digits, spaces, dots, dashes, apostrophes, underscores."""


def placeholder_names(template: str) -> tuple[str, ...]:
    """The names in a template, each once, in the order of their first appearance.

    Raises:
        ValueError: A placeholder is malformed; the message quotes the place.
    """
    if stray := MARK.search(PLACEHOLDER.sub(_blank, template)):
        around = template[max(0, stray.start() - 10) : stray.end() + 20]
        message = (
            f"A placeholder is not opened, not closed or nested near {around!r}: "
            "write it as {{name}}."
        )
        raise ValueError(message)
    names = (_checked_name(match) for match in PLACEHOLDER.finditer(template))
    return tuple(dict.fromkeys(names))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with the named placeholders replaced and all others left as they are."""

    def value_or_mark(match: re.Match[str]) -> str:
        return values.get(_tidy(match[1]), match[0])

    return PLACEHOLDER.sub(value_or_mark, template)


def has_marks(text: str) -> bool:
    """Whether `{{` or `}}` stands in the text."""
    return MARK.search(text) is not None


def without_marks(text: str) -> str:
    """The text with `{{` and `}}` thinned to single braces, so that it names no placeholder."""
    return re.sub(r"\{{2,}", "{", re.sub(r"\}{2,}", "}", text))


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _checked_name(match: re.Match[str]) -> str:
    name = _tidy(match[1])
    if NAME.fullmatch(name) is None:
        message = (
            f"{match[0]!r} is no placeholder: between the braces goes a name that begins with a "
            "letter and has at most 80 letters, digits, spaces, dots, dashes, apostrophes or "
            "underscores."
        )
        raise ValueError(message)
    return name


def _tidy(name: str) -> str:
    return " ".join(name.split())
