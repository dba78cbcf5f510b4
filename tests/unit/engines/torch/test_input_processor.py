"""Requests become sequences with their rules, or are refused by the parameter at fault."""

from typing import Any

import msgspec
import pytest
import torch

from tests.unit.engines.torch.conftest import request
from trtllm_openai.engines.torch.input_processor import InputProcessor
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities, EngineInfo, Guide

EOS, STOP = 2, 9
INFO = EngineInfo(
    "torch", "", "float32", "cpu", 50, (EOS,), 20, 4, Capabilities(guides=("regex", "structural_tag"))
)


@pytest.fixture
def inputs() -> InputProcessor:
    return InputProcessor(INFO, torch.device("cpu"))


@pytest.mark.parametrize(
    ("prompt", "sampling", "param"),
    [
        ([], {}, "prompt"),
        ([3, 50, 4], {}, "prompt"),
        ([3, -1, 4], {}, "prompt"),
        ([3], {"logit_bias": {50: 1.0}}, "logit_bias"),
        ([3], {"allowed_token_ids": (3, 50)}, "allowed_token_ids"),
        ([3], {"bad_words": ((3,), (4, -1))}, "bad_words"),
        ([3] * 10, {"max_tokens": 11}, "prompt"),
    ],
)
def test_refusals_name_the_parameter(
    inputs: InputProcessor, prompt: list[int], sampling: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        inputs.sequence(request("r", prompt, **sampling))
    assert refused.value.param == param


def test_a_prediction_has_tokens_of_the_vocabulary(inputs: InputProcessor) -> None:
    asked = msgspec.structs.replace(request("r", [3]), prediction_token_ids=[4, 50])
    with pytest.raises(InvalidRequest, match="Token id 50 is outside of the vocabulary") as refused:
        inputs.sequence(asked)
    assert refused.value.param == "prediction"


def test_a_guide_that_the_engine_lacks(inputs: InputProcessor) -> None:
    asked = msgspec.structs.replace(request("r", [3]), guide=Guide("grammar", "root ::= a", "p"))
    with pytest.raises(InvalidRequest) as refused:
        inputs.sequence(asked)
    assert (refused.value.param, refused.value.code) == ("p", "unsupported_parameter")


def test_the_longest_sequence(inputs: InputProcessor) -> None:
    sequence = inputs.sequence(request("r", [3] * 10, max_tokens=10))
    assert sequence.tokens == [3] * 10
    assert sequence.rules is None, "no parameter needs any"


@pytest.mark.parametrize(
    ("guide", "forbidden"),
    [
        (None, [EOS, STOP]),
        (Guide("structural_tag", "{}", endless=True), [EOS, STOP]),
        (Guide("regex", "a*"), []),  # where it may end is the guide's
    ],
)
def test_min_tokens_forbids_every_end(
    inputs: InputProcessor, guide: Guide | None, forbidden: list[int]
) -> None:
    asked = request("r", [3], min_tokens=2, stop_token_ids=(STOP,))
    rules = inputs.sequence(msgspec.structs.replace(asked, guide=guide)).rules
    assert rules is not None
    logits = torch.zeros(50)
    rules.apply(logits, 0)
    assert logits.isneginf().nonzero().flatten().tolist() == forbidden


def test_rules_that_cannot_be_made(inputs: InputProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="sampling parameters cannot be applied"):
        inputs.sequence(request("r", [3], logit_bias={3: None}))

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(LogitRules, "__init__", fail)
    with pytest.raises(MemoryError):  # the engine's fault, not the request's
        inputs.sequence(request("r", [3], presence_penalty=1.0))
