"""`inspect`: facts and memory of an engine directory."""

import json
from pathlib import Path

import pytest

from tests.fakes.engine_dir import LOOKAHEAD, LORA, make_engine_dir
from trtllm_openai.commands.inspect import inspect
from trtllm_openai.errors import CheckpointError


def test_memory_in_json(tmp_path: Path) -> None:
    found = json.loads(inspect(make_engine_dir(tmp_path / "m", world=2), as_json=True))
    assert found["world_size"] == 2
    assert found["weights_bytes"] == 2 * 100
    assert found["weights_bytes_per_gpu"] == 100
    per_token = 2 * 30 * 3 * (576 // 9) * 2  # K and V, layers, heads, head size, bytes of bfloat16
    assert found["kv_cache_bytes_per_token"] == per_token
    assert found["kv_cache_bytes_per_full_sequence"] == per_token * 1024
    assert found["kv_cache_bytes_for_a_full_batch"] == per_token * 1024 * 8


def test_the_table_says_the_same_of_the_inner_directory(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path / "m")
    table = inspect(directory, as_json=False)
    assert table == inspect(directory / "engine", as_json=False)
    rows = dict(line.split("  ", 1) for line in table.splitlines())
    assert rows["weights bytes"].strip() == "100"
    assert rows["kv cache bytes for a full batch"].strip().endswith("(0.18 GiB)")


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        inspect(tmp_path, as_json=True)


def test_what_else_it_was_built_for(tmp_path: Path) -> None:
    table = inspect(make_engine_dir(tmp_path / "m", **LORA, **LOOKAHEAD), as_json=False)
    rows = {key.strip(): value for key, value in (line.split("  ", 1) for line in table.splitlines())}
    rows = {key: value.strip() for key, value in rows.items()}
    assert (rows["lora"], rows["lora modules"], rows["max lora rank"]) == (
        "yes",
        "attn_q, attn_k, attn_v",
        "8",
    )
    assert rows["speculative decoding"] == "lookahead (greedy decoding only)"
    assert rows["max draft len"] == "83"
    plain = json.loads(inspect(make_engine_dir(tmp_path / "p"), as_json=True))
    assert (plain["lora"], plain["lora_modules"], plain["speculative_decoding"]) == (False, [], "none")


@pytest.mark.parametrize(
    ("mode", "text"), [(4, "medusa (not served)"), (2, "draft_tokens_external (served without drafts")]
)
def test_a_mode_that_is_not_used_is_said(tmp_path: Path, mode: int, text: str) -> None:
    directory = make_engine_dir(tmp_path / "m", speculative_decoding_mode=mode, max_draft_len=5)
    assert text in inspect(directory, as_json=False)


def test_sampling_defaults_of_the_model(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path / "m")
    assert json.loads(inspect(directory, as_json=True))["default_sampling"] == {}
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    assert json.loads(inspect(directory, as_json=True))["default_sampling"] == {
        "temperature": 0.6,
        "top_p": 0.9,
    }
    (line,) = (
        line for line in inspect(directory, as_json=False).splitlines() if line.startswith("default sampling")
    )
    assert line.endswith("  temperature 0.6, top_p 0.9")
