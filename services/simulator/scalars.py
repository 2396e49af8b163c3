"""Texts and numbers for an answer: the prompt's own where it has them, else neutral ones."""

import math
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.simulator.findings import stems_of
from services.simulator.json_schema import Schema
from services.simulator.material import Material, words_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IN_PROMPT = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "uri": re.compile(r"https?://[^\s<>\"')\]]+"),
    "date": re.compile(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b"),
    "date-time": re.compile(
        r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\dZ"
    ),
    "uuid": re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
}
"""What a schema's `format` looks like in a prompt."""
# Names and addresses that RFC 2606, 5737 and 3849 reserve for examples: they belong to nobody.
NEUTRAL: dict[str, Callable[[int], str]] = {
    "email": lambda index: f"unknown{index}@example.invalid",
    "uri": lambda index: f"https://example.invalid/{index}",
    "hostname": lambda index: f"host{index}.example.invalid",
    "ipv4": lambda index: f"192.0.2.{index % 256}",
    "ipv6": lambda index: f"2001:db8::{index:x}",
    "uuid": lambda index: str(uuid.uuid5(uuid.NAMESPACE_OID, str(index))),
    "date": lambda index: (EPOCH + timedelta(days=index)).date().isoformat(),
    "date-time": lambda index: f"{(EPOCH + timedelta(seconds=index)):%Y-%m-%dT%H:%M:%SZ}",
    "time": lambda index: f"{(EPOCH + timedelta(seconds=index)):%H:%M:%S}Z",
    "duration": lambda index: f"PT{index}S",
}
UNLIMITED = 1e12
"""Stands for no limit: far enough, and finite."""
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
INTEGER = re.compile(r"-?\d+")
QUESTION_NAMES = frozenset({"question", "query"})
TERM_NAMES = frozenset({"term", "terms", "keyword", "keywords", "tag", "tags"})


@dataclass(frozen=True)
class Place:
    """Where in the answer a value goes."""

    name: str = ""
    """The field's name."""
    section: str = ""
    """Tag of the prompt's section that the object around it is about."""
    context: str = ""
    """What that section says."""
    index: int = 0
    """Its number in an array, so that items differ."""
    depth: int = 0


def build_string(schema: Schema, place: Place, material: Material) -> str:
    """A text of the schema's format, pattern and length, where there is one."""
    if schema.get("format") in NEUTRAL:
        return _formatted(schema["format"], place.index, material)
    texts = list(dict.fromkeys(_candidates(place, material)))
    if "pattern" in schema:
        texts = [text for text in texts if re.search(schema["pattern"], text)] or texts
    suffix = f" {place.index}" if place.index >= len(texts) else ""
    return fit_length(texts[place.index % len(texts)], schema, suffix=suffix)


def fit_length(text: str, schema: Schema, *, suffix: str = "") -> str:
    """The text, repeated or cut to the schema's length."""
    shortest, longest = int(schema.get("minLength", 0)), schema.get("maxLength", math.inf)
    while len(text) + len(suffix) < shortest:
        text += f" {text or '-'}"
    if len(text) + len(suffix) <= longest:
        return text + suffix
    suffix = suffix.strip()[-int(longest) :] if longest else ""
    room = int(longest) - len(suffix)
    at_word = text[: room + 1].rpartition(" ")[0]
    return (at_word if len(at_word) + len(suffix) >= max(shortest, 1) else text[:room]) + suffix


def build_number(schema: Schema, place: Place, material: Material, *, is_integer: bool) -> float:
    """A number within the schema's limits: the prompt's own, or near it; else near 0."""
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    low: float = schema.get("minimum", -UNLIMITED)
    high: float = schema.get("maximum", UNLIMITED)
    low = low if above is None else max(low, math.nextafter(above, math.inf))
    high = high if below is None else min(high, math.nextafter(below, -math.inf))
    number = min(max(_named_number(place, material), low), high)
    step: float = schema.get("multipleOf") or (1 if is_integer else 0)
    if not step:
        return min(number + place.index * 1e-3, high)
    first, last = math.ceil(low / step), math.floor(high / step)
    # The quotient of a limit that is just above a multiple may round down to it.
    first += above is not None and first * step <= above
    last -= below is not None and last * step >= below
    multiple = max(math.ceil(number / step), first) + place.index
    if multiple > last >= first:
        multiple = first + (multiple - first) % (last - first + 1)
    return int(multiple * step) if is_integer else multiple * step


def _formatted(kind: str, index: int, material: Material) -> str:
    pattern = IN_PROMPT.get(kind)
    found = list(dict.fromkeys(pattern.findall(material.prompt))) if pattern else []
    return found[index] if index < len(found) else NEUTRAL[kind](index)


def _candidates(place: Place, material: Material) -> Iterator[str]:
    """Texts of the prompt for a field, the most fitting first; never none."""
    words = frozenset(words_of(place.name))
    if place.context:
        if place.name == place.section:
            yield place.context
        yield from _about(place.context, words, material)
    named = material.value_of(place.name)
    if named:
        yield named
    wanted = stems_of(place.name)
    yield from (text for text in material.sentences if wanted & stems_of(text))
    yield from material.sentences
    yield place.name or "-"


def _about(context: str, words: frozenset[str], material: Material) -> Iterator[str]:
    """What can be said about a section's text without knowing anything about it."""
    topic = " ".join(words_of(context))
    if words & QUESTION_NAMES:
        person = material.value_of("name")
        yield f"What is the {topic} of {person}?" if person else f"What is the {topic}?"
    if words & TERM_NAMES:
        yield topic
        yield from (word for word in words_of(context) if word != topic)
        yield from filter(None, [material.value_of("interest"), material.value_of("affiliation")])


def _named_number(place: Place, material: Material) -> float:
    pattern = YEAR if "year" in words_of(place.name) else INTEGER
    found = pattern.search(material.value_of(place.name) or "")
    if found is None and pattern is YEAR:
        found = YEAR.search(material.prompt)
    return float(found[0]) if found else 0.0
