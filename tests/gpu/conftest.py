"""Tests that need an NVIDIA GPU: `make test-gpu`. Without one they are not collected."""

import torch

from tests.unit.engines.torch.conftest import checkpoint

__all__ = ["checkpoint"]

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
