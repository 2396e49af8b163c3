"""Starts a worker: `python -m services.worker OPTIONS`, with the options of `celery worker`.

`celery` itself imports all of its commands before it looks at which one is meant, a shell, its prompt and Flower among
them: a quarter of a start. ADR 20.
"""

from services.worker import boot  # isort: split

import argparse
import sys

from celery.app.utils import find_app
from celery.bin.base import CLIContext
from celery.bin.worker import worker

THIS = "services.worker"


def main() -> None:
    """Start the worker of the app that `--app` names, or else of Penstock's; all other options are Celery's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--app", default=f"{THIS}.app")
    own, options = parser.parse_known_args()
    sys.argv[:1] = ["-m", THIS]  # how Celery starts it anew on SIGHUP
    context = CLIContext(app=find_app(own.app), no_color=False, workdir=None, quiet=True)
    boot.end()
    worker.main(
        options, prog_name=f"python -m {THIS}", auto_envvar_prefix="CELERY_WORKER", obj=context
    )


if __name__ == "__main__":
    main()
