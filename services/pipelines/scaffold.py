"""Starts a pipeline: `make pipeline NAME=my_pipeline` writes one that works, to be changed from there.

See docs/adding-a-pipeline.md. Needs nothing but the standard library.
"""

import keyword
import re
import sys
from pathlib import Path
from string import Template

FILES = Path(__file__).with_name("scaffold_files")
"""What is written, with the name as `$name` and `$NAME`; each file's name ends in .txt."""
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
MAX_NAME_CHARS = 28
"""Its line in the registry, with the name twice, is not to be longer than 100 characters."""
IMPORTS = re.compile(r"(?:from services\.\S+ import .+\n)+")


class ScaffoldError(ValueError):
    """There can be no pipeline of that name."""


def scaffold(name: str, root: Path) -> list[Path]:
    """Write a new pipeline and its test, and register it.

    Args:
        name: Small letters, digits and underscores.
        root: The repository.

    Returns:
        The files that were written or changed.

    Raises:
        ScaffoldError: The name is malformed or taken; nothing was written.
    """
    pipelines, tests = root / "services" / "pipelines", root / "tests" / "unit" / "pipelines"
    registry = pipelines / "registry.py"
    _check_name(name, taken=[pipelines / name, pipelines / f"{name}.py", tests / name])
    registered = _registered(name, registry.read_text("utf-8"))
    written = [
        *_write(FILES / "pipeline", pipelines / name, name),
        *_write(FILES / "test", tests / name, name),
    ]
    registry.write_text(registered, "utf-8")
    return [*written, registry]


def _check_name(name: str, *, taken: list[Path]) -> None:
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS or keyword.iskeyword(name):
        raise ScaffoldError(
            f"{name!r} is no name for a pipeline: begin with a letter, then letters, digits and "
            f"single underscores, all small and at most {MAX_NAME_CHARS}, such as my_pipeline"
        )
    for path in taken:
        if path.exists():
            raise ScaffoldError(f"{name!r} is taken: there is {path}")


def _registered(name: str, registry: str) -> str:
    """The registry with the pipeline's import, in order, and its entry, at the end."""
    constant = name.upper()
    if not registry.endswith("\n}\n") or re.search(rf"\b{constant}\b", registry):
        raise ScaffoldError(f"registry.py is not as expected, or has a {constant} already")
    line = f"from services.pipelines.{name}.pipeline import {constant}\n"
    imported = IMPORTS.sub(lambda found: found[0] + line, registry, count=1)
    entered = imported.removesuffix("}\n") + f"    {constant}.name: {constant},\n}}\n"
    return _with_ordered_imports(entered)


def _with_ordered_imports(code: str) -> str:
    """The code with its imports of services as ruff wants them: where a name belongs depends on it."""

    def ordered(found: re.Match[str]) -> str:
        return "".join(sorted(found[0].splitlines(keepends=True), key=_import_order))

    return IMPORTS.sub(ordered, code, count=1)


def _import_order(line: str) -> list[tuple[int, str]]:
    """As ruff sorts imports: by module, numbers by their value."""
    parts = re.findall(r"\d+|\D+", line.split()[1])
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _write(source: Path, target: Path, name: str) -> list[Path]:
    """Fill in every file of a folder; the paths written, in order."""
    written = []
    for file in sorted(source.rglob("*.txt")):
        path = target / file.relative_to(source).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = Template(file.read_text("utf-8")).substitute(name=name, NAME=name.upper())
        path.write_text(_with_ordered_imports(text), "utf-8")
        written.append(path)
    return written


def main(arguments: list[str]) -> int:
    """Scaffold for the command line; the exit status."""
    root = Path(__file__).parents[2]
    try:
        paths = scaffold(arguments[0] if arguments else "", root)
    except ScaffoldError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.writelines(f"{path.relative_to(root)}\n" for path in paths)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
