"""Nothing skips: a run in which a test was skipped has failed, whoever skipped it and why.

A skipped test looks like a passed one in every summary that is read in a hurry. What a test needs
is installed by ``make test``; what cannot be had is an error.
"""

from __future__ import annotations

import pytest

__all__: list[str] = []


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", ())) if reporter is not None else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if count := _skipped(terminalreporter.config):
        terminalreporter.write_line(f"{count} skipped: nothing may skip here", red=True)
