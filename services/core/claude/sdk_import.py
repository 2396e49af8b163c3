"""Imports of the Anthropic SDK that load what is used, not 3,000 modules.

The SDK's packages are lists of everything below them: `import anthropic` loads its whole beta and administration API,
most of a second and 25 MiB in each process. Here such a list becomes a table of where each name is, and a name is
imported when somebody asks for it. What else the package has makes it run as it is. ADR 20.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Final

SDK: Final = "anthropic"
LISTS: Final = tuple(
    f"{SDK}.{name}" for name in ("types", "resources", "lib.streaming", "lib._tracing")
)
"""Packages that do nothing but import, with all below them; and the SDK itself, which also sets up its own log."""
_IMPORT: Final = re.compile(r"^from (\.[\w.]*) import (?:\(([^)]*)\)|(.+))$", re.MULTILINE)
_STAR: Final = re.compile(r"^from (\.[\w.]+) import \*", re.MULTILINE)
_NAME: Final = re.compile(r"(\w+)(?: as (\w+))?")


class SdkFinder:
    """Finds the SDK's packages first; everything else is left to Python."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A package of the SDK that will be a table, else None."""
        if name != SDK and not f"{name}.".startswith(tuple(f"{package}." for package in LISTS)):
            return None
        spec = PathFinder.find_spec(name, path, target)
        is_package = spec is not None and spec.submodule_search_locations is not None
        if spec is None or not is_package or not isinstance(spec.loader, SourceLoader):
            return None
        spec.loader = _TableLoader(spec.loader)
        return spec


class _TableLoader(Loader):
    """Makes a package that imports a name when it is first asked for."""

    def __init__(self, loader: SourceLoader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave that to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Have the module look its names up."""
        places = _places(self._loader.get_source(module.__name__) or "")

        def look_up(name: str) -> object:
            value = _import_from(module, places, name)
            if value is not None:
                setattr(module, name, value)
                return value
            if not _may_have(self._loader, module, name):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            module.__dict__["__getattr__"] = look_up_while_it_runs
            self._loader.exec_module(module)
            del module.__dict__["__getattr__"]
            return getattr(module, name)

        def look_up_while_it_runs(name: str) -> object:
            value = _import_from(module, places, name)
            if value is None:
                raise AttributeError(name)
            return value

        module.__dict__["__getattr__"] = look_up


def _places(source: str) -> Mapping[str, tuple[str, str]]:
    """Where each name that a package imports is: its module, relative to the package, and its name there."""
    return {
        alias or name: (module, name)
        for module, many, few in _IMPORT.findall(source)
        for name, alias in _NAME.findall(many or few.partition("#")[0])
    }


def _import_from(package: ModuleType, places: Mapping[str, tuple[str, str]], name: str) -> object:
    """What a name of the package stands for; None if nothing but the package itself can tell.

    Raises:
        AttributeError: Python asks for something about the module that it has not.
    """
    if name in places:
        module, its_name = places[name]
        if module.strip("."):
            return getattr(import_module(module, package.__name__), its_name, None)
        return import_module(f"{module}{its_name}", package.__name__)
    if name.startswith("__") and name != "__all__":
        raise AttributeError(name)
    return _submodule(package, name)


def _submodule(package: ModuleType, name: str) -> ModuleType | None:
    if PathFinder.find_spec(f"{package.__name__}.{name}", package.__path__) is None:
        return None
    return import_module(f".{name}", package.__name__)


def _may_have(loader: SourceLoader, package: ModuleType, name: str) -> bool:
    """Whether the name is a word in a package's source, or in what it imports with a star.

    Others look into all modules for names of their own; a package that cannot have one need not run for it.
    """
    source = loader.get_source(package.__name__) or ""
    stars = (_source_of(f"{package.__name__}{module}") for module in _STAR.findall(source))
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for text in (source, *stars))


def _source_of(name: str) -> str:
    """The source of a module below the SDK, which is not imported for this; its parents are."""
    spec = find_spec(name)
    loader = spec.loader if spec else None
    return (loader.get_source(name) or "") if isinstance(loader, SourceLoader) else ""


def install() -> None:
    """Have the SDK imported so from now on; nothing happens if it is imported already."""
    if SDK not in sys.modules and SdkFinder not in sys.meta_path:
        sys.meta_path.insert(0, SdkFinder)
