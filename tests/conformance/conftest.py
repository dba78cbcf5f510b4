"""The started server is the one of the end-to-end tests."""

from tests.e2e.conftest import server

__all__ = ["server"]
