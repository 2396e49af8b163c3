"""Finding what a placeholder asks for: always words that stand in the prompt, never others."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.simulator.material import (
    PAIR,
    WORD,
    Element,
    Material,
    normal_name,
    split_sentences,
    words_of,
)

TITLED_WORKS = frozenset(
    {"article", "book", "chapter", "novel", "paper", "preprint", "publication", "study", "work"}
)
EMPTY_WORDS = frozenset(
    {
        "a",
        "an",
        "and",
        "current",
        "for",
        "his",
        "her",
        "in",
        "latest",
        "main",
        "most",
        "name",
        "new",
    }
    | {"of", "on", "or", "our", "recent", "recipient", "that", "the", "their", "to", "what", "your"}
)
QUOTED = re.compile(r"[“\"]([^“”\"\n]{3,200})[”\"]")
CITED = re.compile(r"\((?:19|20)\d\d\)[.,:]?\s+([^.\n]{5,200})\.")
"""The title in a reference such as `Lovelace, A. (2024). Notes on engines. Journal …`."""
LINK = re.compile(r"https?://|www\.|\S@\S")
AFTER_KEYWORD = re.compile(
    r"\W+(?:(?:is|are|was|were|has been|include|includes|including|focus(?:es)? on|of|on|in|for|as)"
    r"\s+)+(?P<phrase>[^.,;:()\n]{3,120})",
    re.IGNORECASE,
)
MAX_PHRASE_WORDS = 16
SAME_WORDS = dict.fromkeys(("area", "field", "focus", "theme", "topic"), "interest")
STEM_LETTERS = 5
"""Words that share this many first letters are taken for the same: publisher, published."""


@dataclass(frozen=True)
class Finding:
    """A value, and the source that it stands in."""

    value: str
    source: Element | None
    """None: what the prompt says about the people themselves."""


def find_value(name: str, question: str, material: Material) -> Finding | None:
    """Look a placeholder up.

    Args:
        name: The placeholder, without braces.
        question: What its value must answer; may be empty.
        material: The prompt.

    Returns:
        None where the prompt does not tell.
    """
    known = material.pairs.get(normal_name(name))
    if known:
        return Finding(known, None)
    wanted = stems_of(name) or stems_of(question)
    if not wanted:
        return None
    for strategy in (_labelled, _titled, _phrased):
        for source in material.sources:
            for value in strategy(source, wanted, name):
                cleaned = value.strip().strip("\"“”'").rstrip(".,;:")
                if cleaned and not LINK.search(cleaned) and "{{" not in cleaned:
                    return Finding(cleaned, source)
    return None


def stems_of(text: str) -> set[str]:
    """The first letters of each word that says something."""
    words = (SAME_WORDS.get(word, word) for word in words_of(text) if word not in EMPTY_WORDS)
    return {word[:STEM_LETTERS] for word in words}


def _labelled(source: Element, wanted: set[str], _name: str) -> Iterator[str]:
    """`Publisher: Harbour Press`, if the label says all that is wanted."""
    for label, value in PAIR.findall(source.text):
        if wanted <= stems_of(label):
            yield split_sentences(value)[0]


def _titled(source: Element, _wanted: set[str], name: str) -> Iterator[str]:
    """A title, if one is wanted: quoted, in a reference, or the source's own."""
    kinds = {word[:STEM_LETTERS] for word in TITLED_WORKS.intersection(words_of(name))}
    if not kinds:
        return
    yield from _own_title(source)
    for sentence in split_sentences(source.text):
        if kinds & stems_of(sentence):
            yield from QUOTED.findall(sentence)
    if kinds - {"book", "novel"}:
        yield from CITED.findall(source.text)


def _own_title(source: Element) -> Iterator[str]:
    """The title of a source that is a paper itself, as its first line says."""
    lines = source.text.strip().splitlines()
    if len(lines) > 1 and lines[1].startswith("Authors:"):
        yield lines[0]


def _phrased(source: Element, wanted: set[str], _name: str) -> Iterator[str]:
    """The phrase behind the wanted words: `her research interest is [sediment transport]`."""
    for sentence in split_sentences(source.text):
        missing = set(wanted)
        for word in WORD.finditer(sentence):
            missing -= stems_of(word[0])
            if not missing:
                found = AFTER_KEYWORD.match(sentence, word.end())
                if found and len(found["phrase"].split()) <= MAX_PHRASE_WORDS:
                    yield found["phrase"]
                break
