"""One request, however much work it asks for, does not stop the event loop that serves the others.

benchmarks/budget.py has the requests and measures milliseconds. The bound here is one that a busy machine
keeps; without a budget the worst of these requests stopped the loop for a minute.
"""

import asyncio

import httpx
import pytest

from benchmarks.budget import Case, cases, measure
from tests.e2e.conftest import RunningServer

LONGEST_STOP_S = 1.5


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_no_request_stops_the_loop(server: RunningServer, case: Case) -> None:
    found = asyncio.run(measure(httpx.URL(server.url).port or 0, case.path, case.raw()))
    refused = case.param is not None
    assert (found.status, found.param) == (400 if refused else 200, case.param or None)
    assert found.stop < LONGEST_STOP_S
