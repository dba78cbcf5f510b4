"""The engine against transformers' `generate`: the same tokens in float32."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import CONFIGS, VOCAB, make_checkpoint, make_engine, request, run
from trtllm_openai.text.tokenizer import Tokenizer

PROMPTS = [
    "대한민국의 수도는",
    "안녕하세요! 오늘 날씨가",
    "한국어로 대답해 주세요: 김치는",
    "👨‍👩‍👧‍👦 is a family emoji, and 🏳️‍🌈 is",
    "🎉🎊 Party time! 🥳",
    "Emoji: 😀😃😄",
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):\n",
    "SELECT name FROM",
    "1, 2, 3, 4,",
    "Q: What is 2 + 2?\nA:",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "Das Wetter in Berlin",
    "日本の首都は",
    "Привет, как",
    "a",
    "   leading spaces",
    "The quick brown fox " * 30,
    "Water boils at a temperature of",
    "My favourite colour is",
    "import numpy as np\n",
]


def reference(model: transformers.PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
    )
    tokens_out: list[int] = out[0, len(prompt) :].tolist()
    return tokens_out


@pytest.fixture(params=["few_layers", pytest.param("demo_dir", marks=pytest.mark.slow)])
def demo(request: pytest.FixtureRequest) -> Path:
    """The first layers of the demo model, and all of it."""
    directory: Path = request.getfixturevalue(request.param)
    return directory


def test_demo_greedy_equals_generate(demo: Path, demo_tokenizer: Tokenizer) -> None:
    """All prompts together here, each alone there."""
    prompts = [demo_tokenizer.encode(text, add_special_tokens=True) for text in PROMPTS]
    assert len(prompts) >= 20
    engine = make_engine(demo, max_seq_len=1024)
    ours = run(engine, *(request(str(i), ids, max_tokens=12) for i, ids in enumerate(prompts)))
    model = transformers.AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)
    for i, ids in enumerate(prompts):
        assert ours[str(i)].token_ids == reference(model, ids, 12), PROMPTS[i]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture(checkpoint: Callable[[str], Path], name: str) -> None:
    """Prompts within one chunk, of several chunks, and of exactly one; decode over several paddings."""
    directory = checkpoint(name)
    generator = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        for length in (1, 5, 16, 64, 130, 200)
    ]
    # chunks of 56 tokens
    engine = make_engine(directory, max_num_tokens=64, max_batch_size=8)
    ours = run(engine, *(request(str(i), ids, max_tokens=40) for i, ids in enumerate(prompts)))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for i, ids in enumerate(prompts):
        assert ours[str(i)].token_ids == reference(model, ids, 40), len(ids)


def test_sharded_checkpoint_equals_the_single_file(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    make_checkpoint(CONFIGS["llama"](), tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    one = run(make_engine(checkpoint("llama")), request("a", range(3, 30), max_tokens=20))
    other = run(make_engine(tmp_path), request("a", range(3, 30), max_tokens=20))
    assert one["a"].token_ids == other["a"].token_ids


def test_checkpoints_of_transformers_4(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """`rope_theta` and `rope_scaling` at the top level, `torch_dtype` for `dtype`."""
    import json
    import shutil

    source = checkpoint("llama-3.1")
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope:  # written by transformers 5
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = run(make_engine(source), request("a", range(3, 90), max_tokens=20))
    assert run(make_engine(tmp_path), request("a", range(3, 90), max_tokens=20)) == expected
