"""Rules that hold for every tier."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what would be skipped where MARQUEE_TEST_NO_SKIPS says that nothing may be missing."""
    report = yield
    if report.skipped and os.environ.get("MARQUEE_TEST_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped although nothing may be: {report.longrepr}"
    return report
