"""config.json of both transformers 4 and 5. Refusals are in `test_checkpoint_errors`."""

import json
from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.engines.torch.model_config import Llama3Scaling, ModelConfig, read_config
from trtllm_openai.errors import CheckpointError

MINIMAL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 500,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 1024,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def read(directory: Path, **values: Any) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps({**MINIMAL, **values}))
    return read_config(directory)


def test_defaults_of_what_is_left_out(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.layers, config.heads, config.kv_heads, config.head_dim) == (3, 6, 6, 16)
    assert (config.norm_eps, config.rope_theta, config.rope_factor) == (1e-6, 10000.0, 1.0)
    assert (config.llama3_scaling, config.tied_embeddings, config.qk_norm) == (None, False, False)
    assert (config.max_context, config.eos_token_ids) == (1024, ())


def test_what_is_given_counts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        architectures=["Qwen3ForCausalLM"],
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        eos_token_id=7,
    )
    assert (config.architecture, config.kv_heads, config.head_dim) == ("Qwen3ForCausalLM", 2, 32)
    assert (config.norm_eps, config.tied_embeddings, config.qk_norm) == (1e-5, True, True)
    assert config.eos_token_ids == (7,)


@pytest.mark.parametrize(
    ("rope", "factor", "llama3"),
    [
        ({"rope_type": "default"}, 1.0, None),
        ({"rope_type": "linear", "factor": 2.0}, 2.0, None),
        ({"rope_type": "llama3", **LLAMA3}, 1.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
    ],
)
def test_rope_of_transformers_4_and_5(
    tmp_path: Path, rope: dict[str, Any], factor: float, llama3: Llama3Scaling | None
) -> None:
    five = read(tmp_path, rope_parameters={**rope, "rope_theta": 500.0})
    assert (five.rope_theta, five.rope_factor, five.llama3_scaling) == (500.0, factor, llama3)
    assert read(tmp_path, rope_scaling=rope, rope_theta=500.0) == five
    older = {"type" if key == "rope_type" else key: value for key, value in rope.items()}
    assert read(tmp_path, rope_scaling=older, rope_theta=500.0) == five


@pytest.mark.parametrize("missing", sorted([*MINIMAL.keys() - {"architectures"}]))
def test_a_number_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    values = {key: value for key, value in MINIMAL.items() if key != missing}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"config\.json lacks '{missing}'"):
        read_config(tmp_path)


def test_a_scaling_without_its_numbers_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks 'low_freq_factor'"):
        read(tmp_path, rope_scaling={"rope_type": "llama3", "factor": 8.0})


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({"sliding_window": 96}, 96),
        ({"sliding_window": 4096}, 1024),
        ({"sliding_window": None}, 1024),
        ({"sliding_window": 96, "use_sliding_window": False}, 1024),
    ],
)
def test_the_context_ends_where_a_sliding_window_would_begin(
    tmp_path: Path, values: dict[str, Any], context: int
) -> None:
    assert read(tmp_path, **values).max_context == context
