"""Restarts local services whose source changes, by the `develop.watch` rules of the Compose files."""

from collections.abc import Callable

from watchfiles import watch as watch_files

from local.stack import LocalStack


def watch(stack: LocalStack, *, say: Callable[[str], object]) -> None:
    """Restart services as their files change, until interrupted."""
    say(f"Watching {', '.join(sorted(map(str, stack.watched)))}; stop with Ctrl-C.")
    for changes in watch_files(*stack.watched, raise_interrupt=False):
        names = stack.affected_by(path for _, path in changes)
        if names:
            stack.restart(names)
            say(f"restarted {', '.join(names)}")
