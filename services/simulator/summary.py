"""Summarizing documents the way Claude is asked to, but by rule: with sentences of their own."""

from typing import Any

from services.simulator.findings import stems_of
from services.simulator.material import Element, Material, split_sentences

SENTENCE_CHARS = 500
"""Text without full stops is one sentence."""
SENTENCES = 3
"""Of a single document; of several, each gives one."""


def summarize(material: Material) -> dict[str, Any] | None:
    """Write the summary that the prompt asks for.

    Returns:
        What a structured answer may want, by field name: summary, document_ids. None where the
        prompt has no document.
    """
    documents = material.elements("document")
    if not documents:
        return None
    focus = stems_of(material.value_of("focus") or "")
    count = SENTENCES if len(documents) == 1 else 1
    said = [_chosen(document, focus, count) for document in documents]
    return {
        "summary": " ".join(dict.fromkeys(text for text in said if text)),
        "document_ids": sorted({number for document in documents for number in _ids(document)}),
    }


def _chosen(document: Element, focus: set[str], count: int) -> str:
    """The sentences that say most about the focus, in the document's order."""
    sentences = [sentence[:SENTENCE_CHARS] for sentence in split_sentences(document.text)]
    numbers = range(len(sentences))
    best = sorted(numbers, key=lambda number: -len(focus & stems_of(sentences[number])))[:count]
    return " ".join(sentences[number] for number in sorted(best))


def _ids(document: Element) -> list[int]:
    written = f"{document.attributes.get('id', '')} {document.attributes.get('ids', '')}"
    return [int(number) for number in written.split() if number.isdecimal()]
