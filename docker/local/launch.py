"""Becomes one program of a local stack: `python -m local.launch programs.json api`.

supervisord starts this instead of the program itself because its configuration quotes neither commands nor
environments reliably.
"""

import json
import os
import sys
from pathlib import Path


def main(programs_file: str, name: str) -> None:
    """Replace this process by the program."""
    program = json.loads(Path(programs_file).read_text())[name]
    command, environment = program["command"], program["environment"]
    os.execvpe(command[0], command, environment)  # noqa: S606 - becomes the program, no shell wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
