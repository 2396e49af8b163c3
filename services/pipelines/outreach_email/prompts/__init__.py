"""The prompts, one Markdown file each, and how values get into them."""

import re
from importlib.resources import files
from string import Template

COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)


def render_prompt(name: str, /, **values: str) -> str:
    """The prompt in file `name`, without its comments and with each `$key` replaced.

    Values are put in as they are: escape() what comes from outside first.
    """
    text = files(__name__).joinpath(name).read_text("utf-8")
    return Template(COMMENT.sub("", text)).substitute(values).strip()


def escape(text: str) -> str:
    """The text with `<` as `&lt;`: without that sign it can neither open nor close a tag."""
    return text.replace("<", "&lt;")


def unescape(text: str) -> str:
    """Undo escape() in what Claude copied."""
    return text.replace("&lt;", "<")


def element(tag: str, text: str, /, **attributes: str) -> str:
    """An element that holds data; neither text nor attributes can get out of it."""
    inside = "".join(f' {name}="{_quoted(value)}"' for name, value in attributes.items())
    return f"<{tag}{inside}>{escape(text)}</{tag}>"


def _quoted(value: str) -> str:
    return escape(value).replace(">", "&gt;").replace('"', "&quot;")
