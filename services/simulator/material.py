"""Reading a prompt: its XML-like sections, its `field: value` lines, its sentences.

The simulator invents nothing, so all that it can say is found here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

ELEMENT = re.compile(
    r"<(?P<tag>[A-Za-z_][\w-]*)(?P<attributes>(?:\s+[\w-]+=\"[^\"]*\")*)\s*>"
    r"(?P<inside>.*?)</(?P=tag)>",
    re.DOTALL,
)
ATTRIBUTE = re.compile(r"([\w-]+)=\"([^\"]*)\"")
TAG = re.compile(r"</?[A-Za-z_][^<>]*>")
PAIR = re.compile(
    r"^[ \t]*(?:[-*•][ \t]+)?([^\W\d][\w ./-]{0,40}?):[ \t]+(\S.*?)[ \t]*$", re.MULTILINE
)
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)(?<!\bProf\.)\s+|\n+")
"""A full stop after an initial or a short title (`J.`, `Dr.`) ends no sentence."""
WORD = re.compile(r"[^\W_]+")
CAMEL_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
ESCAPED = re.compile(r"&(?P<sign>lt|gt|quot);|&amp;(?=(?:amp;)*(?:lt|gt|quot);)")
SIGNS = {"lt": "<", "gt": ">", "quot": '"', None: "&"}
SOURCE_TAGS = ("source", "document", "page", "paper")


@dataclass(frozen=True)
class Element:
    """One section of a prompt."""

    tag: str
    attributes: dict[str, str]
    text: str
    """What stands inside, without the tags of sections within."""
    children: tuple["Element", ...] = ()

    def walk(self) -> Iterator["Element"]:
        """This section and all within, in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Material:
    """A prompt, taken apart."""

    prompt: str
    sections: tuple[Element, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Take the prompt apart once."""
        object.__setattr__(self, "sections", tuple(parse_elements(self.prompt)))

    def elements(self, *tags: str) -> list[Element]:
        """All sections with one of these tags, in order."""
        return [element for element in self._all if element.tag in tags]

    @cached_property
    def _all(self) -> tuple[Element, ...]:
        return tuple(element for section in self.sections for element in section.walk())

    @property
    def sources(self) -> list[Element]:
        """What the prompt gives to quote from."""
        return self.elements(*SOURCE_TAGS)

    @cached_property
    def pairs(self) -> dict[str, str]:
        """`field: value` lines outside the sources: `name`, and `recipient_name` by its section."""
        found: dict[str, str] = {}
        for element in self._all:
            if element.children or element.tag in {*SOURCE_TAGS, "template"}:
                continue
            for key, value in PAIR.findall(element.text):
                found.setdefault(f"{element.tag}_{normal_name(key)}", value)
                found.setdefault(normal_name(key), value)
        return found

    @cached_property
    def plain_text(self) -> str:
        """The prompt without its tags."""
        return unescape(TAG.sub("\n", self.prompt)).strip()

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the sources, or of the whole prompt where it has none."""
        texts = [source.text for source in self.sources] or [self.plain_text]
        return tuple(sentence for text in texts for sentence in split_sentences(text))

    def value_of(self, name: str) -> str | None:
        """What the prompt calls by this name: a line, a section, or an attribute of one."""
        key = normal_name(name)
        if key in self.pairs:
            return self.pairs[key]
        for element in self._all:
            if normal_name(element.tag) == key and element.text.strip():
                return element.text.strip()
        for element in self._all:
            if element.attributes.get(name, "").strip():
                return element.attributes[name].strip()
        return None


def parse_elements(text: str) -> Iterator[Element]:
    """The sections of a text, those within sections as their children."""
    for match in ELEMENT.finditer(text):
        inside = match["inside"]
        attributes = {
            name: unescape(value) for name, value in ATTRIBUTE.findall(match["attributes"])
        }
        children = tuple(parse_elements(inside)) if "</" in inside else ()
        own_text = TAG.sub("", inside) if children else inside
        yield Element(match["tag"], attributes, unescape(own_text).strip("\n"), children)


def unescape(text: str) -> str:
    """Undo the escapes that keep a value inside its section; Penstock's prompts are written so."""
    return ESCAPED.sub(lambda match: SIGNS[match["sign"]], text)


def split_sentences(text: str) -> list[str]:
    """The text's sentences; a line break ends one too."""
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]


def words_of(name: str) -> list[str]:
    """The words of a name or text, in lower case: `recentPaper_title` has three."""
    return [word.lower() for word in WORD.findall(CAMEL_HUMP.sub(" ", name))]


def normal_name(name: str) -> str:
    """One spelling of a name: `Recent paper` and `recentPaper` are `recent_paper`."""
    return "_".join(words_of(name))
