"""How text from outside stands in a prompt: within a fence that it cannot leave.

A fence is an XML-like element that code writes. In the text between its tags `<` is `&lt;`, so no tag
within is real, and what looks like one of these escapes already is escaped once more, so that
unescape() gives back exactly what was there. Other signs stay as they are: prose with `&` and `>`
reads, and quotes, as it was written.

`Fenced` is a type of its own: Prompts.user() takes nothing else, so mypy finds a value that was put into a
prompt as it came.
"""

import re
from typing import NewType

Fenced = NewType("Fenced", str)
"""Text that may stand in a prompt."""

ESCAPES = {"<": "&lt;", ">": "&gt;", '"': "&quot;", "&": "&amp;"}
IN_TEXT = re.compile(r"<|&(?=(?:amp;)*(?:lt|gt|quot);)")
IN_ATTRIBUTE = re.compile(r"[<>\"]|&(?=(?:amp;)*(?:lt|gt|quot);)")
ESCAPED = re.compile(r"&(?:lt|gt|quot);|&amp;(?=(?:amp;)*(?:lt|gt|quot);)")
SIGNS = {escape: sign for sign, escape in ESCAPES.items()}


def escape(text: str) -> Fenced:
    """The text without `<`: it can neither open nor close a tag."""
    return Fenced(IN_TEXT.sub(_escape, text))


def unescape(text: str) -> str:
    """Undo escape() in what Claude copied."""
    return ESCAPED.sub(lambda match: SIGNS[match[0]], text)


def element(tag: str, text: str, /, **attributes: str | int) -> Fenced:
    """A fence with text in it; neither the text nor an attribute can get out."""
    return section(tag, escape(text), **attributes)


def section(tag: str, /, *inside: Fenced, **attributes: str | int) -> Fenced:
    """A fence around what is fenced already, one piece a line."""
    written = "".join(f' {name}="{_attribute(str(value))}"' for name, value in attributes.items())
    return Fenced(f"<{tag}{written}>{lines(*inside)}</{tag}>")


def lines(*pieces: Fenced) -> Fenced:
    """Pieces one below the other."""
    return Fenced("\n".join(pieces))


def _attribute(value: str) -> str:
    """The value on one line and without the signs that end it."""
    return IN_ATTRIBUTE.sub(_escape, " ".join(value.split()))


def _escape(match: re.Match[str]) -> str:
    return ESCAPES[match[0]]
