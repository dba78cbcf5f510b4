"""The engine's contract: ends, limits, refusals, abort."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engines.torch.conftest import VOCAB, finish, make_engine, request, run
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch import executor as executor_module
from trtllm_openai.engines.torch import loader
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.sizes import make_limits
from trtllm_openai.errors import CheckpointError, ConfigError, InvalidRequest
from trtllm_openai.generation import STEP_TOKEN_BOUNDS

PROMPT = range(3, 12)


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> TorchEngine:
    return make_engine(checkpoint("llama"), max_batch_size=4, max_seq_len=128)


def tokens(engine: TorchEngine, **sampling: Any) -> list[int]:
    return run(engine, request("t", PROMPT, **sampling))["t"].token_ids


def test_length_stop_and_ignored_end(engine: TorchEngine) -> None:
    plain = tokens(engine, max_tokens=12, ignore_eos=True)
    assert len(plain) == 12
    stop = next(token for token in plain[3:] if token not in plain[:3])
    at = plain.index(stop)
    output = run(engine, request("s", PROMPT, max_tokens=12, ignore_eos=True, stop_token_ids=(stop,)))["s"]
    assert (output.token_ids, output.finish_reason, output.stop_token_id) == (plain[: at + 1], "stop", stop)
    forced = run(engine, request("e", PROMPT, logit_bias={2: 100.0}))["e"]
    assert (forced.token_ids, forced.finish_reason, forced.stop_token_id) == ([2], "stop", 2)
    ignored = run(engine, request("i", PROMPT, logit_bias={2: 100.0}, ignore_eos=True, max_tokens=3))["i"]
    assert (ignored.token_ids, ignored.finish_reason) == ([2, 2, 2], "length")


def test_min_tokens_forbids_every_end(engine: TorchEngine) -> None:
    bias = {1: 100.0, 2: 100.0, 50: 90.0}
    output = run(engine, request("m", PROMPT, logit_bias=bias, min_tokens=4, stop_token_ids=(1,)))["m"]
    assert output.token_ids[:4] == [50] * 4
    assert output.finish_reason == "stop"
    assert len(output.token_ids) == 5


def test_parameters_of_neighbours_do_not_mix(engine: TorchEngine) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 1},
        {"repetition_penalty": 2.0},
        {"logit_bias": {9: 100.0}},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0},
        {"temperature": 1.0, "seed": 2, "top_k": 3, "logprobs": 2},
        {"min_tokens": 8},
    ]
    settings = [{"max_tokens": 40, "ignore_eos": True, **one} for one in settings]
    alone = [tokens(engine, **one) for one in settings]
    together = run(engine, *(request(str(i), PROMPT, **one) for i, one in enumerate(settings)))
    assert [together[str(i)].token_ids for i in range(len(settings))] == alone
    assert alone[3] == [9] * 40
    assert len({tuple(one) for one in alone[:5]}) == 5


def test_abort_waiting_and_running(engine: TorchEngine) -> None:
    for i in range(6):  # two more than run at once
        engine.submit(request(str(i), PROMPT, max_tokens=100, ignore_eos=True))
    engine.step(0)
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (4, 2)
    for i in range(6):
        engine.abort(str(i))
    engine.abort("0")
    engine.abort("never seen")
    outputs = engine.step(0)
    assert sorted((one.request_id, one.finish_reason) for one in outputs) == [
        (str(i), "abort") for i in range(6)
    ]
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
    assert engine.step(0) == []


def test_what_takes_too_long_is_ended(engine: TorchEngine) -> None:
    long = [request(f"run {i}", PROMPT, max_tokens=100, ignore_eos=True) for i in range(3)]
    short = [
        msgspec.structs.replace(request("slow", PROMPT, max_tokens=110), allotted_ms=60),
        msgspec.structs.replace(request("slow and waits", PROMPT), allotted_ms=60),
        msgspec.structs.replace(
            request("patient", PROMPT, max_tokens=20, ignore_eos=True), allotted_ms=60_000
        ),
    ]
    for one in long + short:
        engine.submit(one)
    engine.step(0)
    time.sleep(0.2)
    ended = {one.request_id: one for one in engine.step(0) if one.finish_reason == "error"}
    late = "the request exceeded its time limit"
    assert {name: one.error for name, one in ended.items()} == {"slow": late, "slow and waits": late}
    rest = finish(engine, {"run 0", "run 1", "run 2", "patient"})
    assert rest["patient"].finish_reason == "length"
    assert engine.stats().kv_blocks_used == 0


def test_a_prefill_of_several_steps_says_that_it_has_begun(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), max_num_tokens=36)
    engine.submit(request("long", range(3, 90), max_tokens=2))
    engine.submit(request("short", range(3, 6), max_tokens=2))  # one chunk is 4 tokens here
    outputs = [one for _ in range(40) for one in engine.step(0)]
    first, *rest = [one for one in outputs if one.request_id == "long"]
    assert (first.token_ids, first.finish_reason) == ([], None)
    assert first.queued_ms is not None
    assert [len(one.token_ids) for one in rest] == [1, 1]
    assert rest[0].queued_ms is None
    assert all(one.token_ids for one in outputs if one.request_id == "short")


def test_computing_again_instead_of_keeping(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does when blocks run out, where rounding may differ: float32 tells enough apart."""
    prompts = {str(i): [(11 * i * j) % 400 + 3 for j in range(40 * i)] for i in range(1, 6)}
    ones = [request(name, ids, max_tokens=50, ignore_eos=True, logprobs=1) for name, ids in prompts.items()]
    expected = run(make_engine(checkpoint("llama"), max_seq_len=256), *ones)
    monkeypatch.setattr(
        loader, "make_limits", lambda *given: dataclasses.replace(make_limits(*given), exact=False, tile=1)
    )
    tight = make_engine(checkpoint("llama"), max_seq_len=256, kv_cache_tokens=24 * 16)
    again = 0
    begin_again = Sequence.begin_again

    def counting(sequence: Sequence) -> None:
        nonlocal again
        again += 1
        begin_again(sequence)

    monkeypatch.setattr(Sequence, "begin_again", counting)
    outputs = run(tight, *ones)
    assert again > 0
    assert tight.stats().preemptions == again
    for name, one in expected.items():
        assert outputs[name].token_ids == one.token_ids
        logprobs = zip(outputs[name].logprobs or (), one.logprobs or (), strict=True)
        assert all(mine.logprob == pytest.approx(other.logprob, abs=1e-3) for mine, other in logprobs)
    assert tight.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], {}, "empty"),
        ([VOCAB], {}, "vocabulary"),
        ([-1], {}, "vocabulary"),
        ([5] * 100, {"max_tokens": 29}, "129 tokens exceed the limit of 128"),
    ],
)
def test_refusals(engine: TorchEngine, prompt: list[int], sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(request("r", prompt, **sampling))
    assert engine.stats().waiting == 0


def test_an_id_is_that_of_one_running_request(engine: TorchEngine) -> None:
    engine.submit(request("r", PROMPT))
    with pytest.raises(InvalidRequest, match="A request with the id r is already running"):
        engine.submit(request("r", PROMPT))
    assert len(finish(engine, {"r"})["r"].token_ids) == 8


def test_the_whole_context_can_be_used(engine: TorchEngine) -> None:
    output = run(engine, request("w", [5] * 100, max_tokens=28, ignore_eos=True))["w"]
    assert len(output.token_ids) == 28


def test_cache_is_never_smaller_than_one_sequence(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), max_seq_len=100, kv_cache_tokens=1)
    assert engine.info.kv_blocks == 7
    assert len(run(engine, request("w", [5] * 60, max_tokens=40, ignore_eos=True))["w"].token_ids) == 40


def test_settings_that_cannot_work_are_named(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"torch\.max_num_tokens"):
        make_engine(checkpoint("llama"), max_num_tokens=8, max_batch_size=8)
    with pytest.raises(ConfigError, match=r"torch\.max_seq_len.*1024"):
        make_engine(checkpoint("llama"), max_seq_len=5000)
    with pytest.raises(ConfigError, match=r"torch\.device"):
        make_engine(checkpoint("llama"), device="cuda")


def test_the_vocabulary_is_read_beside_the_weights(checkpoint: Callable[[str], Path]) -> None:
    """Weights are read while it is, and what fails there ends the loading."""
    reading = threading.Event()

    def progress(_: float, what: str) -> None:
        if what == "reading weights":
            reading.set()

    def vocabulary() -> list[bytes]:
        assert reading.wait(30)
        raise CheckpointError("no tokenizer")

    with pytest.raises(CheckpointError, match="no tokenizer"):
        loader.load(checkpoint("llama"), TorchSettings(device="cpu"), progress, vocabulary)


def test_a_step_without_memory_is_taken_again(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer that made it larger is given up; nobody else loses or doubles a token."""
    prompt = range(3, 90)

    def ask() -> Any:
        scored = {"prompt_logprobs": 1, "max_tokens": 6, "ignore_eos": True}
        return make_engine(checkpoint("llama"), max_num_tokens=36), request("old", prompt, **scored)

    engine, old = ask()
    alone = run(engine, old)["old"]
    engine, old = ask()
    engine.submit(old)
    first = engine.step(0.01)
    engine.submit(request("new", range(3, 20)))
    real = executor_module.sample  # type: ignore[attr-defined]  # imported there; patched there

    def fail(*_: Any) -> Any:
        monkeypatch.setattr(executor_module, "sample", real)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(executor_module, "sample", fail)
    ends = finish(engine, {"old", "new"})
    assert not any(one.token_ids for one in first)
    assert (ends["new"].finish_reason, ends["new"].token_ids) == ("error", [])
    assert ends["old"].token_ids == alone.token_ids
    assert ends["old"].prompt_logprobs == alone.prompt_logprobs
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("copy", ["copy_out", "copy_in"])
def test_swapping_without_memory_ends_one_sequence(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, copy: str
) -> None:
    engine = make_engine(checkpoint("llama"), max_seq_len=128, kv_cache_tokens=160)
    requests = [request(name, range(3, 40), max_tokens=60, ignore_eos=True) for name in "abcd"]
    alone = run(engine, requests[0])["a"].token_ids
    failed = 0

    def fail(*_: Any) -> Any:
        nonlocal failed
        failed += 1
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(KVCache, copy, fail)
    ends = run(engine, *requests)
    assert failed == 1
    assert sorted(one.finish_reason or "" for one in ends.values()) == ["error", "length", "length", "length"]
    assert [one.token_ids for one in ends.values() if one.finish_reason == "length"] == [alone] * 3
    assert engine.stats().kv_blocks_used == 0


def test_every_step_counts_the_tokens_that_it_computes(checkpoint: Callable[[str], Path]) -> None:
    """A prompt of 9 tokens that gives the first token, then three steps of one token."""
    engine = make_engine(checkpoint("llama"), max_seq_len=128)
    run(engine, request("t", PROMPT, max_tokens=4, ignore_eos=True))
    stats = engine.stats()
    counts = dict(zip((*STEP_TOKEN_BOUNDS, None), stats.step_token_counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {16: 1, 1: 3}
    assert (stats.step_tokens, stats.steps, stats.preemptions) == (9 + 3, 4, 0)
