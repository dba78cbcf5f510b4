"""No parameter value of one sequence raises out of `step`, or changes a token of its neighbours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engines.torch.conftest import VOCAB, finish, make_engine, request
from trtllm_openai.engines.torch import sampler
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.engines.torch.output_processor import NO_TOKEN_POSSIBLE
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, SamplingParams

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
    return make_engine(checkpoint("llama"), max_batch_size=16, max_seq_len=64, threads=1)


@pytest.fixture(scope="module")
def alone(engine: TorchEngine) -> list[int]:
    engine.submit(request("n", range(3, 12), **NEIGHBOUR))
    return finish(engine, {"n"})["n"].token_ids


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.fixed_dictionaries({}, optional=PARAMETERS), min_size=3, max_size=12))
def test_mixed(engine: TorchEngine, alone: list[int], params: list[dict[str, Any]]) -> None:
    check(engine, alone, params)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(
            (name, NUMBERS)
            for name in (
                "temperature",
                "top_p",
                "min_p",
                "presence_penalty",
                "frequency_penalty",
                "repetition_penalty",
            )
        ),
        *((name, COUNTS) for name in ("top_k", "seed", "min_tokens", "logprobs", "prompt_logprobs")),
        ("logit_bias", [{7: value} for value in NUMBERS]),
    ],
)
def test_singly(engine: TorchEngine, alone: list[int], name: str, values: list[Any]) -> None:
    """Each value in a sequence of its own, all in one batch."""
    check(engine, alone, [{"temperature": 1.0} | {name: value} for value in values])


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


def fail(*_: Any, **__: Any) -> None:
    raise ValueError("broken")


class BrokenGuide:
    """A `GuideMatcher` that allows everything and then raises."""

    error, seconds, draft_seconds = "", 0.0, 0.0
    accept_token = fail

    def fill_mask(self, mask: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        mask.fill(-1)


def break_guide(engine: TorchEngine) -> None:
    engine._live["x"].matcher = BrokenGuide()


@pytest.mark.parametrize(
    ("target", "name", "sampling"),
    [
        (LogitRules, "apply", {"presence_penalty": 1.0}),
        (LogitRules, "add", {"presence_penalty": 1.0}),
        (sampler, "_token_logprobs", {"prompt_logprobs": 2}),
        (sampler, "_token_logprobs", {"prompt_logprobs": 2, "max_tokens": 0}),
        (None, "", {}),
    ],
)
def test_what_raises_for_a_sequence_ends_it_alone(
    engine: TorchEngine,
    alone: list[int],
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    sampling: dict[str, Any],
) -> None:
    engine.submit(request("n", range(3, 12), **NEIGHBOUR))
    engine.submit(request("x", range(5, 40), **sampling))
    if target is not None:
        monkeypatch.setattr(target, name, fail)
    else:
        break_guide(engine)
    ends = finish(engine, {"n", "x"})
    assert (ends["x"].finish_reason, ends["n"].token_ids) == ("error", alone)
    assert engine.stats().kv_blocks_used == 0


def test_a_salt_without_a_code_is_refused_when_it_is_submitted(engine: TorchEngine) -> None:
    with pytest.raises(UnicodeEncodeError):
        engine.submit(GenerationRequest("x", [5, 6], SamplingParams(4), cache_salt="\ud800"))
    assert engine.step(0) == []
