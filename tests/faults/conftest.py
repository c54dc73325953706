"""Prints what the fault runs saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from faults.fleet import HEADING, REPORTS

    if REPORTS:
        terminalreporter.section("fault runs")
        for line in (HEADING, *(report.line() for report in REPORTS)):
            terminalreporter.write_line(line)
