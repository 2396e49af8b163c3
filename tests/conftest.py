"""What holds for every test: in CI, a test that did not run has not passed."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

IS_CI = os.environ.get("CI") == "true"  # noqa: TID251 - how tests run is no setting


def pytest_configure(config: pytest.Config) -> None:
    """Declare our marks, and let Hypothesis take its time."""
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("penstock", deadline=None)
    hypothesis.settings.load_profile("penstock")
    config.addinivalue_line("markers", "compose: holds in containers only, not for local processes")


def fail_if_skipped(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Turn a skip into a failure that gives the skip's reason; an expected failure stays one."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI=true: nothing may be skipped ({reason})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """No test is skipped in CI."""
    report: Any = yield
    if IS_CI:
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """No module is skipped in CI."""
    report: Any = yield
    if IS_CI:
        fail_if_skipped(report)
    return report
