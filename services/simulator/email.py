"""Completing an email from a template the way Claude is asked to, but by rule.

The prompt holds `<template>`, whom the email is for, `<to_find>` questions and `<source>` texts.
Placeholders are filled with words that stand in the prompt; a sentence whose placeholder finds no
answer is dropped.
"""

import re
from typing import Any

from services.simulator.findings import Finding, find_value
from services.simulator.material import SENTENCE_END, Material

PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
SUBJECT_LINE = re.compile(r"\A\s*Subject:[ \t]*(.*)\n+", re.IGNORECASE)
GREETING = re.compile(
    r"^\s*(?:Dear|Hello|Hi|Good (?:morning|afternoon|day))\b[^,;:?]{0,120}[,!:]?\s*$", re.IGNORECASE
)
MAX_SUBJECT_WORDS = 10


def compose_email(material: Material) -> dict[str, Any] | None:
    """Write the email that the prompt asks for.

    Returns:
        What a structured answer may want, by field name: subject, body, filled, left_out,
        source_ids. None where the prompt has no template.
    """
    templates = material.elements("template")
    if not templates:
        return None
    names = list(dict.fromkeys(_tidy(name) for name in PLACEHOLDER.findall(templates[0].text)))
    findings = _find_all(names, material)
    values = {name: finding.value for name, finding in findings.items()}
    subject, body = _split_subject(templates[0].text)
    email = {
        "subject": _complete(subject, values) or _plain_subject(values, material),
        "body": _complete(body, values) or _without_gaps(body, values) or "Hello,",
    }
    # A value may have gone with a sentence that another placeholder of it made unsayable.
    used = {
        name: finding
        for name, finding in findings.items()
        if any(finding.value in text for text in email.values())
    }
    source_ids = [_id_of(finding) for finding in used.values() if finding.source]
    return email | {
        "filled": [
            {"placeholder": name, "value": finding.value, "source_id": _id_of(finding)}
            for name, finding in used.items()
        ],
        "left_out": [name for name in names if name not in used],
        "source_ids": list(dict.fromkeys(source_ids)),
    }


def _find_all(names: list[str], material: Material) -> dict[str, Finding]:
    """Look up each placeholder but those that the prompt says to leave out."""
    questions = {
        element.attributes.get("placeholder", ""): element.text
        for element in material.elements("find")
    }
    left_out = {
        element.text.strip()
        for section in material.elements("leave_out")
        for element in section.children
    }
    found = {
        name: find_value(name, questions.get(name, ""), material)
        for name in names
        if name not in left_out
    }
    return {name: finding for name, finding in found.items() if finding is not None}


def _split_subject(template: str) -> tuple[str, str]:
    match = SUBJECT_LINE.match(template)
    return (match[1], template[match.end() :]) if match else ("", template)


def _complete(text: str, values: dict[str, str]) -> str:
    """The text with its placeholders filled, and without what cannot be said."""
    lines = []
    for line in text.strip().splitlines():
        completed = _complete_line(line, values)
        if completed or not line.strip():
            lines.append(completed)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _without_gaps(text: str, values: dict[str, str]) -> str:
    """The text where each sentence has a gap: only the gaps go, or nothing would be left."""
    lines = [PLACEHOLDER.sub("", line) for line in _fill(text, values).strip().splitlines()]
    return "\n".join(_tidy_line(line) for line in lines).strip()


def _complete_line(line: str, values: dict[str, str]) -> str:
    if GREETING.match(line):
        return _complete_greeting(line, values)
    completed = [_fill(sentence, values) for sentence in SENTENCE_END.split(line.strip())]
    return " ".join(sentence for sentence in completed if not PLACEHOLDER.search(sentence))


def _complete_greeting(line: str, values: dict[str, str]) -> str:
    """A greeting stays, with or without the name: `Dear {{title}} Lovelace,`."""
    greeting = _tidy_line(PLACEHOLDER.sub("", _fill(line, values)))
    return re.sub(r"^Dear(?=\W*$)", "Hello", greeting)


def _fill(text: str, values: dict[str, str]) -> str:
    return PLACEHOLDER.sub(lambda mark: values.get(_tidy(mark[1]), mark[0]), text)


def _tidy_line(line: str) -> str:
    """The line without the spaces that a removed placeholder left."""
    return re.sub(r"\s+([,!.:;?])", r"\1", " ".join(line.split()))


def _tidy(name: str) -> str:
    return " ".join(name.split())


def _plain_subject(values: dict[str, str], material: Material) -> str:
    """A subject where the template gives none: what the email is about, or whom it is for."""
    for value in values.values():
        if len(value.split()) < MAX_SUBJECT_WORDS:
            return f"About {value}"
    name = material.value_of("recipient_name") or material.value_of("name")
    return f"A note for {name}" if name else "A note"


def _id_of(finding: Finding) -> int | str | None:
    """The id by which the prompt calls the source; None without a source."""
    identity = finding.source.attributes.get("id", "") if finding.source else None
    return int(identity) if identity and identity.isdecimal() else identity
