"""Prompts in Markdown files, two for each question: what Claude is to do, and the material."""

import re
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from services.pipelines.fences import Fenced

COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one pipeline: `NAME.system.md` and `NAME.user.md` in a package."""

    package: str

    def system(self, name: str) -> str:
        """What Claude is to do. Takes no values, so nothing from outside gets into it."""
        return self._text(f"{name}.system.md").strip()

    def user(self, name: str, /, **values: Fenced) -> str:
        """The material: the file with each `$key` replaced.

        Raises:
            KeyError: A key has no value.
        """
        return Template(self._text(f"{name}.user.md")).substitute(values).strip()

    def _text(self, file: str) -> str:
        return COMMENT.sub("", files(self.package).joinpath(file).read_text("utf-8"))
