"""Whether the compiled shim, and with it the fake tensorrt_llm, can be used here."""

import os

import pytest

from tests.fakes import tensorrt_llm_shim


def require_shim() -> None:
    """Compile the shim. Without a compiler tests are skipped, but in CI they fail."""
    reason = tensorrt_llm_shim.missing()
    if reason is not None and os.environ.get("CI") != "true":
        pytest.skip(f"the fake tensorrt_llm needs its compiled bindings: {reason}")
    tensorrt_llm_shim.build()
