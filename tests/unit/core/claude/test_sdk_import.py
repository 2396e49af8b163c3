"""The SDK imported by need is the SDK."""

import subprocess
import sys
from typing import Final

ROOT_NAMES: Final = "anthropic", "anthropic.types", "anthropic.types.shared", "anthropic.resources"


def run_python(code: str) -> str:
    """What a new interpreter prints, in which the SDK is not imported yet."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_what_the_worker_needs_leaves_the_beta_api_out() -> None:
    """Most of the SDK's modules are never imported."""
    code = """
import sys
import services.core.claude.anthropic_claude, services.core.claude.message_batches
print(sum(name.startswith("anthropic.") for name in sys.modules))
print("anthropic.types.beta.agents" in sys.modules, "anthropic.lib.vertex" in sys.modules)
"""

    count, others = run_python(code).splitlines()

    assert int(count) < 1500
    assert others == "False False"


def test_each_name_is_what_the_sdk_itself_gives() -> None:
    """Looked up or run as a whole, a package has the same names for the same things."""
    code = f"""
import services.core.claude
from importlib import import_module
for package in {ROOT_NAMES}:
    module = import_module(package)
    assert "__getattr__" in vars(module), package
    loader = module.__spec__.loader._loader
    table = import_module("services.core.claude.sdk_import")
    names = table._places(loader.get_source(package))
    looked_up = {{name: getattr(module, name) for name in names}}
    assert not hasattr(module, "a_name_that_nobody_has"), package
    assert "__getattr__" in vars(module), package
    loader.exec_module(module)
    assert looked_up, package
    for name, value in looked_up.items():
        assert getattr(module, name) is value, (package, name)
    print(len(looked_up))
"""

    counts = [int(line) for line in run_python(code).splitlines()]

    assert len(counts) == len(ROOT_NAMES)


def test_what_is_not_in_the_table_makes_the_package_run_as_it_is() -> None:
    """Star imports and what a package computes are there, too."""
    code = """
import services.core.claude
import anthropic
from anthropic import *
print(anthropic.AnthropicVertex.__name__, anthropic.__version__, AsyncAnthropic is anthropic.AsyncAnthropic)
"""

    name, version, is_same = run_python(code).split()

    assert name == "AnthropicVertex"
    assert version[0].isdigit()
    assert is_same == "True"


def test_a_sdk_that_is_imported_already_stays_as_it_is() -> None:
    """Whoever came first decides."""
    code = """
import sys, anthropic, services.core.claude
from services.core.claude.sdk_import import SdkFinder
print(SdkFinder in sys.meta_path)
"""

    assert run_python(code).strip() == "False"


def test_whoever_looks_into_all_modules_does_not_make_the_sdk_load_itself() -> None:
    """Logfire asks each module for a class of Amazon's, for example."""
    code = """
import sys
import services.core.claude.anthropic_claude
before = set(sys.modules)
for module in list(sys.modules.values()):
    getattr(module, "LambdaRuntimeClient", None)
print(sorted(name for name in set(sys.modules) - before if name.startswith("anthropic.")))
"""

    assert run_python(code).strip() == "[]"
