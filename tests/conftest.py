"""What tests of several parts share: the demo model, as the server itself would find it."""

from pathlib import Path

import pytest

from app import checkpoints
from app.config import Settings
from app.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """The demo's checkpoint, converted if it was not yet."""
    return checkpoints.resolve("demo", Settings().cache_path, lambda fraction, what: None)


@pytest.fixture(scope="session")
def demo_tokenizer(demo_dir: Path) -> Tokenizer:
    return Tokenizer.load(demo_dir)
