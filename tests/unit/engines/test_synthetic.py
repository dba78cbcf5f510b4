"""The synthetic engine keeps the Engine contract and its pace."""

import time

import pytest

from trtllm_openai.config import SyntheticSettings
from trtllm_openai.engines.synthetic import SyntheticEngine, load
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput


def engine(**settings: float) -> SyntheticEngine:
    return SyntheticEngine(SyntheticSettings(**{"ttft": 0.0, "itl": 0.0, **settings}), 100, (2,))


def request(
    request_id: str = "a", max_tokens: int = 5, prompt: int = 3, seed: int | None = None
) -> GenerationRequest:
    return GenerationRequest(request_id, [1] * prompt, SamplingParams(max_tokens, seed=seed))


def run(subject: SyntheticEngine, steps: int = 1000) -> dict[str, list[StepOutput]]:
    result: dict[str, list[StepOutput]] = {}
    for _ in range(steps):
        for output in subject.step(0.01):
            result.setdefault(output.request_id, []).append(output)
        if not subject.stats().running and not subject.stats().waiting:
            break
    return result


def test_makes_max_tokens_and_never_an_eos() -> None:
    subject = engine()
    subject.submit(request(max_tokens=200))
    outputs = run(subject)["a"]
    tokens = [token for output in outputs for token in output.token_ids]
    assert len(tokens) == 200
    assert 2 not in tokens
    assert [output.finish_reason for output in outputs] == [None] * 199 + ["length"]


def test_same_seed_same_tokens() -> None:
    def tokens(seed: int) -> list[int]:
        subject = engine()
        subject.submit(request(seed=seed))
        return [token for output in run(subject)["a"] for token in output.token_ids]

    assert tokens(4) == tokens(4) != tokens(5)


def test_a_script_is_said_in_the_order_of_requests() -> None:
    subject = SyntheticEngine(SyntheticSettings(ttft=0.0, itl=0.0), 100, (2,), [[5, 6, 7], [8]])
    for name in "abc":
        subject.submit(request(name, max_tokens=10))
    subject.submit(request("cut", max_tokens=1))
    said = {
        name: ([token for output in outputs for token in output.token_ids], outputs[-1].finish_reason)
        for name, outputs in run(subject).items()
    }
    assert said == {
        "a": ([5, 6, 7, 2], "stop"),
        "b": ([8, 2], "stop"),
        "c": ([5, 6, 7, 2], "stop"),
        "cut": ([8], "length"),
    }


def test_loading_tokenizes_the_script() -> None:
    settings = SyntheticSettings(ttft=0.0, itl=0.0, script=["ab", ""])
    subject = load(settings, 100, (2,), lambda fraction, what: None, lambda text: [ord(one) for one in text])
    for name in "ab":
        subject.submit(request(name, max_tokens=10))
    outputs = run(subject)
    assert [output.token_ids for output in outputs["a"]] == [[97], [98], [2]]
    assert [output.token_ids for output in outputs["b"]] == [[2]]


def test_it_says_that_it_has_begun_when_the_first_token_takes_long() -> None:
    subject = engine(ttft=1.0)
    subject.submit(request("a", max_tokens=1))
    begun, last = run(subject)["a"]
    assert (begun.token_ids, begun.finish_reason) == ([], None)
    assert begun.queued_ms is not None
    assert last.finish_reason == "length"
    assert last.queued_ms is None
    quick = engine()
    quick.submit(request("a", max_tokens=1))
    assert len(run(quick)["a"]) == 1


def test_batch_bound_makes_the_rest_wait() -> None:
    subject = engine(max_batch_size=2)
    for name in "abc":
        subject.submit(request(name, max_tokens=2))
    subject.step(0.0)
    assert (subject.stats().running, subject.stats().waiting) == (2, 1)
    assert set(run(subject)) == {"a", "b", "c"}


def test_abort_running_waiting_and_unknown() -> None:
    subject = engine(max_batch_size=1)
    subject.submit(request("a", max_tokens=100))
    subject.submit(request("b", max_tokens=100))
    subject.step(0.0)
    for name in ("a", "b", "nobody"):
        subject.abort(name)
    outputs = subject.step(0.0)
    assert {output.request_id: output.finish_reason for output in outputs} == {"a": "abort", "b": "abort"}
    assert (subject.stats().running, subject.stats().waiting) == (0, 0)


def test_pace() -> None:
    subject = engine(ttft=0.05, itl=0.02)
    started = time.monotonic()
    subject.submit(request(max_tokens=6))
    run(subject)
    assert time.monotonic() - started >= 0.05 + 5 * 0.02


def test_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="exceed"):
        engine(max_seq_len=4).submit(request(max_tokens=2))


def test_a_step_counts_its_tokens_and_the_prompts_that_began() -> None:
    subject = engine()
    subject.submit(request("a", max_tokens=2, prompt=20))
    subject.submit(request("b", max_tokens=3, prompt=5))
    run(subject)
    counts = subject.stats().step_token_counts
    assert counts == [1, 1, 0, 1, *[0] * 10], "steps of 27, 2 and 1 tokens"
    assert subject.stats().step_tokens == 30
