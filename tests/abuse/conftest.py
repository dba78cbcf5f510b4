"""Collects what docs/security.md is written from, in `make abuse`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from tests.abuse import page
from tests.abuse.cases import full_cases

FULL = os.environ.get("ABUSE") == "1"


@dataclass
class Results:
    """`rows` of the cases, `outcomes` of other tests by id, `resting` memory by process and round."""

    rows: list[page.Row] = field(default_factory=list)
    outcomes: dict[str, bool] = field(default_factory=dict)
    resting: dict[str, list[int]] = field(default_factory=dict)


RESULTS = Results()


class Recorder:
    """Notes how each test ended. A hook of this file would hear of the tests in its own folder only."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.nodeid.startswith("tests/abuse/") and not report.skipped:
            RESULTS.outcomes[report.nodeid] = RESULTS.outcomes.get(report.nodeid, True) and report.passed


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder())


def pytest_sessionfinish(session: pytest.Session) -> None:
    if FULL and len(RESULTS.rows) == len(full_cases()):
        page.write(RESULTS.rows, RESULTS.outcomes, RESULTS.resting)
