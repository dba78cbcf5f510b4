"""Facts from a checkpoint's small JSON files."""

from pathlib import Path

import pytest

from trtllm_openai.checkpoints.metadata import read_eos_token_ids, read_optional_json
from trtllm_openai.errors import CheckpointError


def test_eos_ids(tmp_path: Path) -> None:
    assert read_eos_token_ids(tmp_path) == ()
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert read_eos_token_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert read_eos_token_ids(tmp_path) == (8, 9)


def test_an_absent_file_is_empty_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert read_optional_json(file) == {}
    file.write_text("[1]")
    with pytest.raises(CheckpointError, match=r"x\.json does not hold a JSON object"):
        read_optional_json(file)
