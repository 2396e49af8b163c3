"""A start without garbage collections and plugins: __main__.py and app.py import this before anything else.

A quarter of a start would be spent on looking for garbage among what imports make, all of which stays. Once all is
imported it is set aside, so that no later collection stops the loop for a tenth of a second to look at it again.
"""

import functools
import gc
import os

gc.disable()
# Pydantic would look for plugins in all packages, find Logfire's, and show it each model; it has nothing to do here.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # noqa: TID251 - Pydantic has no other way

THRESHOLDS = (10_000, 20, 50)
"""New objects between two collections, and young collections between two of older objects. Python's own thresholds
(700, 10, 10) are for small programs: each of a thousand calls that wait for Claude has thousands of objects that live
until its answer, and to look for garbage among them again and again took a sixth of a worker's CPU time."""


def end() -> None:
    """Collect garbage again, but not among what there is by now."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()


@functools.cache
def share_with_children() -> None:
    """Before the first fork: a child that collects garbage would copy each page that it looks at."""
    gc.collect()
    gc.freeze()
