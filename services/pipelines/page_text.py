"""Title and text of a page, extracted in a process of its own.

Run as `python -m services.pipelines.page_text CPU_LIMIT_S`, it answers requests on standard input
until that ends. Parsing a hostile page can take minutes (libxml2 compares each attribute of a tag with all
others) and a thread can't be stopped; a process can. It sees none of the parent's environment, so
no secret either.

A request is two frames (declared charset or nothing; bytes), and so is an answer (title; text).
One empty frame says that the process is ready.
"""

import contextlib
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import IO

import trafilatura
from trafilatura.utils import decode_file

from services.pipelines.frames import read_frame, write_frames

MAX_MEMORY_BYTES = 512 << 20


def extract_text(raw: bytes, charset: str) -> tuple[str, str]:
    """Title and main text of an HTML page; both empty if it is none."""
    tree = trafilatura.load_html(decode(raw, charset))
    if tree is None:
        return "", ""
    title = " ".join((tree.findtext(".//title") or "").split())
    text = trafilatura.extract(tree, include_comments=False)
    return title, text or trafilatura.html2txt(tree)


def decode(raw: bytes, charset: str) -> str:
    """The text of bytes whose declared charset may be absent, unknown or wrong."""
    try:
        return raw.decode(charset)
    except (LookupError, ValueError):
        return decode_file(raw)


def answer_requests(requests: IO[bytes], answers: IO[bytes], *, cpu_limit_s: float) -> None:
    """Extract page after page until the requests end or a page needs too much.

    The limit is for processor time, so that an honest page is not given up on a busy machine. SIGPROF,
    which nobody handles, ends the process even in the middle of the parser.
    """
    write_frames(answers, b"")
    with contextlib.suppress(EOFError, MemoryError):
        while True:
            charset, raw = read_frame(requests), read_frame(requests)
            signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
            title, text = extract_text(raw, charset.decode())
            signal.setitimer(signal.ITIMER_PROF, 0)
            write_frames(answers, *(part.encode("utf-8", "replace") for part in (title, text)))


def _be_the_first_to_go() -> None:
    """If memory runs short, the kernel is to end this process and not the worker."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with contextlib.suppress(OSError):  # not Linux, or /proc is closed
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


if __name__ == "__main__":
    _be_the_first_to_go()
    logging.disable()  # trafilatura reports each odd page
    answer_requests(sys.stdin.buffer, sys.stdout.buffer, cpu_limit_s=float(sys.argv[1]))
