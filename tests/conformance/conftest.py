"""The started server is the one of the end-to-end tests, with the whole demo model."""

import pytest

from tests.e2e.conftest import RunningServer, demo_server

__all__ = ["demo_server"]


@pytest.fixture(scope="session")
def server(demo_server: RunningServer) -> RunningServer:
    return demo_server
