"""Sizes that follow from settings, device and model, and settings that leave no room."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.engines.torch.plan import Limits
from trtllm_openai.engines.torch.sizes import choose_kv_blocks, choose_max_seq_len, make_limits
from trtllm_openai.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_cpu_has_short_steps_and_exact_answers() -> None:
    limits = make_limits(TorchSettings(), CPU)
    assert (limits.max_batch_size, limits.max_num_tokens, limits.chunk) == (32, 512, 256)
    assert (limits.exact, limits.tile, limits.draft_rows) == (True, 64, 0)
    ranks = make_limits(TorchSettings(tensor_parallel_size=2), CPU)
    assert (ranks.exact, ranks.tile) == (False, 1), "sums over ranks depend on the batch"


def test_a_gpu_has_long_steps() -> None:
    limits = make_limits(TorchSettings(), GPU)
    assert (limits.max_batch_size, limits.max_num_tokens, limits.chunk) == (256, 8192, 8192 - 256)
    assert (limits.exact, limits.tile) == (False, 1)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_step_is_what_the_settings_say(device: torch.device) -> None:
    settings = TorchSettings(max_batch_size=8, max_num_tokens=40, block_size=32, enable_prefix_caching=False)
    limits = make_limits(settings, device)
    assert (limits.max_batch_size, limits.max_num_tokens, limits.chunk) == (8, 40, 32)
    assert (limits.block_size, limits.prefix_caching) == (32, False)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_drafts_have_rows_also_where_few_sequences_decode(device: torch.device) -> None:
    def rows(**settings: int) -> tuple[int, int]:
        limits = make_limits(TorchSettings(speculation="auto", **settings), device)
        assert limits.chunk + limits.draft_rows <= limits.max_num_tokens
        return limits.draft_rows, limits.chunk

    few = min(256, 8192 - 64) if device == CPU else 8192 - 64
    assert rows(max_batch_size=1) == (64, few)
    assert rows(max_batch_size=100)[0] == 100, "every sequence decodes"
    assert rows(max_batch_size=8, max_num_tokens=100) == (50, 50)
    assert make_limits(TorchSettings(speculation="auto", tensor_parallel_size=2), device).draft_rows == 0


def test_a_step_without_room_for_prompts_is_refused() -> None:
    for settings in ({"max_num_tokens": 8, "max_batch_size": 8}, {"max_num_tokens": 20}):
        with pytest.raises(ConfigError, match=r"torch\.max_num_tokens: .* torch\.max_batch_size \(\d+\)"):
            make_limits(TorchSettings(**settings), CPU)


def test_sequences_are_no_longer_than_the_context(checkpoint: Callable[[str], Path]) -> None:
    config = read_config(checkpoint("llama"))
    assert choose_max_seq_len(None, config) == 1024
    assert choose_max_seq_len(1024, config) == 1024
    assert choose_max_seq_len(100, config) == 100
    with pytest.raises(ConfigError, match=r"torch\.max_seq_len: 1025 exceeds .* of 1024 tokens"):
        choose_max_seq_len(1025, config)


@pytest.mark.parametrize(
    ("wanted", "fitting", "blocks"),
    [
        (None, 300, 300 // 16),  # as many as fit
        (None, 10**9, 4 * (100 + 16) // 16),  # as many as a full batch can use
        (None, 10, 7),  # one sequence
        (1600, 10, 100),  # as configured, whatever seems to fit
        (1, 10**9, 7),
    ],
)
def test_kv_blocks(wanted: int | None, fitting: int, blocks: int) -> None:
    limits = Limits(max_batch_size=4, max_num_tokens=64, chunk=32, block_size=16)
    assert choose_kv_blocks(wanted, fitting, limits, 100) == blocks
