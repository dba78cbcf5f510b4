"""No parameter value of one sequence raises out of `step`, or changes a token of its neighbours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engines.torch.conftest import VOCAB, finish, make_engine, request
from trtllm_openai.engines.torch.engine import NO_TOKEN_POSSIBLE, TorchEngine
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.errors import InvalidRequest

NUMBERS = (
    0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    1e-38,
    1e-300,
    1e38,
    -1e38,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
)
COUNTS = (-(2**40), -1, 0, 1, 3, VOCAB, VOCAB + 1, 2**40)
PARAMETERS: dict[str, st.SearchStrategy[Any]] = {
    **{
        name: st.sampled_from(NUMBERS)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
        )
    },
    **{
        name: st.sampled_from(COUNTS)
        for name in ("top_k", "seed", "min_tokens", "logprobs", "prompt_logprobs")
    },
    "logit_bias": st.dictionaries(
        st.sampled_from((0, 7, VOCAB - 1, VOCAB, -1, 2**70)), st.sampled_from(NUMBERS)
    ),
    "stop_token_ids": st.sampled_from(((), (3,), (-1, VOCAB, 2**70), tuple(range(VOCAB)))),
    "ignore_eos": st.booleans(),
    "max_tokens": st.sampled_from((-1, 0, 1, 4)),
}
NEIGHBOUR = {"max_tokens": 6, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> TorchEngine:
    return make_engine(checkpoint("llama"), max_batch_size=4, max_seq_len=64)


@pytest.fixture(scope="module")
def alone(engine: TorchEngine) -> list[int]:
    engine.submit(request("n", range(3, 12), **NEIGHBOUR))
    return finish(engine, {"n"})["n"].token_ids


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.fixed_dictionaries({}, optional=PARAMETERS), min_size=1, max_size=3))
def test_mixed(engine: TorchEngine, alone: list[int], params: list[dict[str, Any]]) -> None:
    check(engine, alone, params)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", NUMBERS)
def test_singly(engine: TorchEngine, alone: list[int], name: str, value: float) -> None:
    check(engine, alone, [{"temperature": 1.0} | {name: value}])


def check(engine: TorchEngine, alone: list[int], params: list[dict[str, Any]]) -> None:
    engine.submit(request("n", range(3, 12), **NEIGHBOUR))
    ids = {"n"}
    for index, one in enumerate(params):
        try:
            engine.submit(request(str(index), [5, 6, 7], **{"max_tokens": 4, **one}))
        except InvalidRequest:
            continue
        ids.add(str(index))
    ends = finish(engine, ids)
    assert ends["n"].token_ids == alone
    assert all(0 <= token < VOCAB for end in ends.values() for token in end.token_ids)
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    "sampling",
    [
        {"repetition_penalty": 1e-38},
        {"min_tokens": 2, "stop_token_ids": tuple(range(VOCAB))},
        {
            "min_tokens": 2,
            "stop_token_ids": tuple(range(VOCAB)),
            "temperature": 1.0,
            "top_p": 0.5,
            "logprobs": 2,
        },
    ],
)
def test_no_token_ends_with_an_error(engine: TorchEngine, sampling: dict[str, Any]) -> None:
    engine.submit(request("x", [5, 6, *range(3, VOCAB // 10)], **{"max_tokens": 4, **sampling}))
    outputs = [output for _ in range(10) for output in engine.step(0)]
    assert outputs[-1].finish_reason == "error"
    assert outputs[-1].error_code == NO_TOKEN_POSSIBLE
    assert outputs[-1].token_ids == []


def test_a_failing_rule_ends_its_sequence_alone(
    engine: TorchEngine, alone: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(LogitRules, "apply", fail)
    engine.submit(request("n", range(3, 12), **NEIGHBOUR))
    engine.submit(request("x", [5, 6, 7], presence_penalty=1.0))
    ends = finish(engine, {"n", "x"})
    assert (ends["x"].finish_reason, ends["n"].token_ids) == ("error", alone)
