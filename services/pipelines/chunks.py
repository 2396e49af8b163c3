"""Cutting long text into pieces that fit a prompt."""

MAX_CHUNK_BYTES = 24_000
"""UTF-8 bytes of one piece: about 6,000 tokens of English, and below 12,000 in any script."""
BREAKS = ("\n\n", "\n", ". ", " ")
"""Where a piece may end, the best first."""


def split_text(text: str, *, max_bytes: int = MAX_CHUNK_BYTES) -> list[str]:
    """The text in pieces of at most so many bytes; joined, they are the text again."""
    pieces = []
    while text:
        piece = _first_piece(text, max_bytes)
        pieces.append(piece)
        text = text[len(piece) :]
    return pieces


def _first_piece(text: str, max_bytes: int) -> str:
    # A character has at least one byte, so what fits lies within as many characters.
    fitting = text[:max_bytes].encode()[:max_bytes].decode(errors="ignore")
    if len(fitting) == len(text):
        return text
    for mark in BREAKS:
        end = fitting.rfind(mark, len(fitting) // 2)
        if end >= 0:
            return fitting[: end + len(mark)]
    return fitting or text[0]
