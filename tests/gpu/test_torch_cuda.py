"""The torch engine on CUDA."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import (
    CONFIGS,
    SIZES,
    VOCAB,
    finish,
    make_checkpoint,
    make_engine,
    request,
    run,
)
from trtllm_openai.engines.torch.cuda import executor
from trtllm_openai.engines.torch.cuda.graphs import Graphs
from trtllm_openai.errors import ConfigError

LENGTHS = (1, 5, 16, 64, 130, 200)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_generate(checkpoint: Callable[[str], Path], name: str) -> None:
    directory = checkpoint(name)
    engine = make_engine(directory, device="cuda", max_num_tokens=64, max_batch_size=8)
    ours = run(engine, *(request(str(i), ids, max_tokens=40) for i, ids in enumerate(prompts())))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).cuda()
    for i, prompt in enumerate(prompts()):
        ids = torch.tensor([prompt], device="cuda")
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0
        )
        assert ours[str(i)].token_ids == out[0, len(prompt) :].tolist(), len(prompt)


def test_prompts_by_graphs_and_by_launches_give_the_same_tokens(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole prompts, chunks and decoding in one step, with log-probabilities of prompts."""
    found, replays = [], []
    original = Graphs.replay
    for pairs in (executor.MOST_PAIRS, -1):
        monkeypatch.setattr(executor, "MOST_PAIRS", pairs)
        engine = make_engine(checkpoint("llama"), device="cuda", max_num_tokens=96, max_batch_size=8)
        sizes: list[int] = []
        monkeypatch.setattr(
            Graphs,
            "replay",
            lambda graphs, size, sizes=sizes: (sizes.append(size), original(graphs, size))[1],
        )
        requests = [
            request(str(i), ids, max_tokens=30, prompt_logprobs=2 if i % 2 else None)
            for i, ids in enumerate(prompts())
        ]
        outputs = run(engine, *requests)
        found.append({name: one.token_ids for name, one in outputs.items()})
        scores = outputs["3"].prompt_logprobs
        assert scores is not None
        assert len(scores) == LENGTHS[3]
        replays.append(len(sizes))
    assert found[0] == found[1]
    assert replays[0] > replays[1]


def test_every_parameter_in_one_batch_and_a_tight_cache(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(
        checkpoint("llama"), device="cuda", dtype="bfloat16", max_seq_len=256, kv_cache_tokens=24 * 16
    )
    settings: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": 20},
        {"temperature": 1.0, "seed": 2, "top_k": 5, "min_p": 0.1},
        {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"logit_bias": {7: 100.0}},
        {"temperature": 2.0, "min_tokens": 30, "stop_token_ids": (5,)},
        {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": 0},
    ]
    outputs = run(
        engine,
        *(
            request(str(i), prompt, max_tokens=50, ignore_eos=True, **one)
            for i, (prompt, one) in enumerate(zip(prompts(), settings, strict=True))
        ),
    )
    assert outputs["3"].token_ids == [7] * 50
    assert len(outputs["4"].token_ids) > 30
    logprobs = outputs["0"].logprobs
    assert logprobs is not None
    assert all(len(one.top) == 20 and one.logprob <= 0 for one in logprobs)
    assert engine.stats().kv_blocks_used == 0


def test_sampling_depends_on_the_seed_and_not_on_the_batch(checkpoint: Callable[[str], Path]) -> None:
    """In float32 rounding, which may differ with the batch, is too small to change a token."""
    engine = make_engine(checkpoint("llama"), device="cuda", max_batch_size=8)
    drawn = {"temperature": 1.0, "max_tokens": 60, "ignore_eos": True, "top_p": 0.95}
    alone = [
        run(engine, request("one", prompt, seed=i, **drawn))["one"].token_ids
        for i, prompt in enumerate(prompts())
    ]
    together = run(engine, *(request(str(i), p, seed=i, **drawn) for i, p in enumerate(prompts())))
    assert [together[str(i)].token_ids for i in range(len(alone))] == alone


def test_the_prefix_cache_changes_nothing(checkpoint: Callable[[str], Path]) -> None:
    directory = checkpoint("llama")
    long = [(7 * i) % (VOCAB - 3) + 3 for i in range(200)]
    ones = [request(str(i), [*long[: 60 * i + 20], 9, i], max_tokens=20, ignore_eos=True) for i in range(4)]
    cold = make_engine(directory, device="cuda", enable_prefix_caching=False)
    expected = {one.request_id: run(cold, one)[one.request_id].token_ids for one in ones}
    warm = make_engine(directory, device="cuda", max_num_tokens=320, max_batch_size=16)
    for one in ones * 2:
        assert run(warm, one)[one.request_id].token_ids == expected[one.request_id]
    assert warm.stats().kv_blocks_reused > 0


def test_penalties_are_known_in_time(checkpoint: Callable[[str], Path]) -> None:
    """A step is launched before the host has read the last one's token; its penalty counts nevertheless."""
    directory = checkpoint("llama")
    punished = {"repetition_penalty": 1.8, "frequency_penalty": 1.0, "max_tokens": 40, "ignore_eos": True}
    on_cpu = make_engine(directory)
    on_gpu = make_engine(directory, device="cuda")
    one = request("x", prompts()[3], **punished)
    assert run(on_gpu, one)["x"].token_ids == run(on_cpu, one)["x"].token_ids


def test_an_abort_ends_a_sequence_that_has_a_token_under_way(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), device="cuda")
    for name in ("a", "b"):
        engine.submit(request(name, prompts()[2], max_tokens=50, ignore_eos=True))
    for _ in range(5):
        engine.step(0)
    engine.abort("a")
    outputs = engine.step(0)
    assert [(one.request_id, one.finish_reason) for one in outputs if one.request_id == "a"] == [
        ("a", "abort")
    ]
    assert "a" not in finish(engine, {"b"})
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("fp8", ["quantization", "kv_cache_dtype"])
def test_fp8_is_close(tmp_path: Path, fp8: str) -> None:
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    directory = make_checkpoint(transformers.LlamaConfig(**sizes), tmp_path)
    scores = []
    for settings in ({}, {fp8: "fp8"}):
        engine = make_engine(directory, device="cuda", dtype="bfloat16", **settings)
        ones = [request(str(i), p, max_tokens=1, prompt_logprobs=0) for i, p in enumerate(prompts()[1:])]
        found: list[float] = []
        for one in ones:
            engine.submit(one)
        while engine.stats().running or engine.stats().waiting or not found:
            for output in sorted(engine.step(0.01), key=lambda output: output.request_id):
                found += [p.logprob for p in output.prompt_logprobs or () if p is not None]
            if len(found) == sum(len(p) - 1 for p in prompts()[1:]):
                break
        scores.append(sorted(found))
    difference = torch.tensor(scores[0]) - torch.tensor(scores[1])
    assert difference.abs().mean() < 0.1
    assert difference.any()


def test_a_time_budget_leaves_answers_as_they_are(checkpoint: Callable[[str], Path]) -> None:
    """In float32, where the cut of prompts hardly changes rounding."""
    ones = [request(str(i), ids, max_tokens=40, ignore_eos=True) for i, ids in enumerate(prompts())]
    found = []
    for limit in (None, 0.5):
        engine = make_engine(checkpoint("llama"), device="cuda", max_batch_size=4, max_step_ms=limit)
        found.append({name: output.token_ids for name, output in run(engine, *ones).items()})
        engine.shutdown(1)
    assert found[0] == found[1]


EXTREMES: list[dict[str, Any]] = [
    {"repetition_penalty": 1e-38},
    {"min_tokens": 2, "stop_token_ids": tuple(range(VOCAB))},
    {"min_tokens": 2, "stop_token_ids": tuple(range(VOCAB)), "temperature": 1.0, "top_p": 0.5, "logprobs": 2},
]


@pytest.mark.parametrize("sampling", EXTREMES)
def test_no_token_ends_its_sequence_alone(
    checkpoint: Callable[[str], Path], sampling: dict[str, Any]
) -> None:
    engine = make_engine(checkpoint("llama"), device="cuda", max_batch_size=4)
    beside = request("beside", prompts()[2], max_tokens=12, ignore_eos=True)
    alone = run(engine, beside)["beside"].token_ids
    ends = run(engine, beside, request("x", [5, 6, *range(3, VOCAB // 10)], **{"max_tokens": 4, **sampling}))
    assert (ends["x"].finish_reason, ends["x"].token_ids) == ("error", [])
    assert ends["beside"].token_ids == alone
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("temperature", [1e-300, 1e38, 1e300, float("inf")])
def test_any_temperature_draws_a_token(checkpoint: Callable[[str], Path], temperature: float) -> None:
    engine = make_engine(checkpoint("llama"), device="cuda", max_batch_size=4)
    sampling = {"temperature": temperature, "logit_bias": {7: -math.inf}, "ignore_eos": True, "seed": 1}
    drawn = run(engine, request("x", [5, 6, 7], max_tokens=20, **sampling))["x"]
    assert (drawn.finish_reason, len(drawn.token_ids)) == ("length", 20)
    assert all(0 <= token < VOCAB and token != 7 for token in drawn.token_ids)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"device": "cuda", "quantization": "int8"}, "int8"), ({"quantization": "fp8"}, "fp8")],
)
def test_quantization_of_the_wrong_device(
    checkpoint: Callable[[str], Path], wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=rf"torch\.quantization: {named}"):
        make_engine(checkpoint("llama"), **wrong)


def test_random_weights_need_no_file(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint("llama") / "config.json").read_text())
    engine = make_engine(tmp_path, device="cuda", load_format="dummy")
    assert len(run(engine, request("x", [5, 6, 7], ignore_eos=True))["x"].token_ids) == 8
