"""The Engine contract over the fake of `tensorrt_llm.LLM`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engines.tensorrt_llm.conftest import EOS, FAKES, forget_what_is_set
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm import pytorch
from trtllm_openai.engines.tensorrt_llm.pytorch import LLMEngine
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams, StepOutput
from trtllm_openai.generation.build import check_capabilities
from trtllm_openai.processes.mpi import SPAWN_ENVIRONMENT
from trtllm_openai.text.tokenizer import Tokenizer

Make = Callable[..., LLMEngine]
PROMPT = [10, 11, 12]


def load(demo_dir: Path, settings: TensorRTLLMSettings) -> LLMEngine:
    return pytorch.load(
        demo_dir, demo_dir, settings, EOS, lambda *_: None, lambda: Tokenizer.load(demo_dir).vocabulary()
    )


@pytest.fixture
def engine(demo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.syspath_prepend(FAKES)
    forget_what_is_set(monkeypatch, *SPAWN_ENVIRONMENT)
    made: list[LLMEngine] = []

    def make(settings: dict[str, Any] | None = None, **behaviour: Any) -> LLMEngine:
        monkeypatch.setenv("FAKE_TRTLLM", json.dumps(behaviour))
        one = load(demo_dir, TensorRTLLMSettings(**(settings or {})))
        made.append(one)
        return one

    yield make
    for one in made:
        one.shutdown(1.0)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def request(name: str, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        name, PROMPT, SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **sampling})
    )


def finish(engine: LLMEngine, count: int, patience: float = 5) -> dict[str, StepOutput]:
    whole: dict[str, StepOutput] = {}
    done, deadline = 0, time.monotonic() + patience
    while done < count:
        assert time.monotonic() < deadline
        for output in engine.step(0.02):
            one = whole.setdefault(output.request_id, StepOutput(output.request_id, []))
            assert one.finish_reason is None
            one.token_ids += output.token_ids
            if output.logprobs:
                one.logprobs = (one.logprobs or []) + output.logprobs
            one.finish_reason, one.stop_token_id = output.finish_reason, output.stop_token_id
            one.error, one.error_code, one.error_param = output.error, output.error_code, output.error_param
            done += output.finish_reason is not None
    return whole


def test_every_end(engine: Make) -> None:
    subject = engine()
    subject.submit(request("stop"))
    subject.submit(request("length", max_tokens=2))
    subject.submit(request("ignored", max_tokens=9, ignore_eos=True))
    subject.submit(request("stop token", stop_token_ids=(11,)))
    subject.submit(request("bias", logit_bias={77: 100.0}, max_tokens=2))
    subject.submit(request("sampled", temperature=1.0, max_tokens=2))
    outputs = finish(subject, 6)
    assert (outputs["stop"].token_ids, outputs["stop"].stop_token_id) == ([*PROMPT, 2], 2)
    assert (outputs["length"].token_ids, outputs["length"].finish_reason) == ([10, 11], "length")
    assert outputs["ignored"].token_ids == PROMPT * 3
    assert (outputs["stop token"].token_ids, outputs["stop token"].stop_token_id) == ([10, 11], 11)
    assert outputs["bias"].token_ids == [77, 77]
    assert outputs["sampled"].token_ids == [11, 12]
    assert subject.stats().running == 0


def test_logprobs_with_alternatives(engine: Make) -> None:
    subject = engine()
    subject.submit(request("two", logprobs=2, max_tokens=1))
    subject.submit(request("none", logprobs=0, max_tokens=1))
    outputs = finish(subject, 2)
    two, none = outputs["two"].logprobs, outputs["none"].logprobs
    assert two is not None
    assert none is not None
    assert (two[0].token_id, two[0].logprob, two[0].top) == (10, -0.5, [(10, -0.5), (11, -1.5)])
    assert (none[0].logprob, none[0].top) == (-0.5, [])


def test_abort_before_and_while_running(engine: Make) -> None:
    subject = engine(itl=0.01)
    subject.submit(request("new"))
    subject.abort("new")
    subject.abort("unknown")
    assert [(one.request_id, one.finish_reason) for one in subject.step(0)] == [("new", "abort")]
    subject.submit(request("running", max_tokens=5000, ignore_eos=True))
    subject.step(0.1)
    subject.abort("running")
    assert [one.finish_reason for one in subject.step(0)] == ["abort"]
    assert subject.step(0.03) == []
    assert subject.stats().running == 0


def test_salts_reach_the_block_cache(engine: Make) -> None:
    subject = engine()
    assert subject.info.capabilities.cache_salt
    for name, salt in (("a", None), ("b", "alice")):
        subject.submit(msgspec.structs.replace(request(name), cache_salt=salt))
    finish(subject, 2)
    assert subject._llm.salts == [None, "alice"]


def test_errors(engine: Make) -> None:
    subject = engine(error_after=1)
    subject.submit(request("a"))
    one = finish(subject, 1)["a"]
    assert (one.finish_reason, one.error) == ("error", "Encountered an error in forward")
    with pytest.raises(InvalidRequest, match="exceed the limit of 8192"):
        subject.submit(request("b", max_tokens=8192))
    with pytest.raises(InvalidRequest, match="empty"):
        subject.submit(msgspec.structs.replace(request("b"), prompt_token_ids=[]))
    subject._llm.shutdown()
    subject.submit(request("c"))
    assert finish(subject, 1)["c"].error == "LLM is shutting down"


def test_guides_need_the_setting(engine: Make) -> None:
    assert engine().info.capabilities.guides == ()
    subject = engine({"guided_decoding": True, "max_seq_len": 100, "tensor_parallel_size": 2})
    assert subject.info.max_seq_len == 100
    assert subject.info.tensor_parallel == 2
    guides = [
        Guide("json_object"),
        Guide("json_schema", "{}"),
        Guide("regex", "a"),
        Guide("grammar", 'root ::= "x"'),
    ]
    for i, guide in enumerate(guides):
        subject.submit(msgspec.structs.replace(request(str(i)), guide=guide))
    assert all(one.finish_reason == "stop" for one in finish(subject, 4, patience=30).values())
    assert subject._llm.guides[0] == {"json": '{"type":"object"}'}, "not any JSON value"

    stuck = "x".join(["(.{0,1000}){0,1000}"] * 20_000)
    for name, text in (("bad", "("), ("stuck", stuck)):
        subject.submit(msgspec.structs.replace(request(name), guide=Guide("regex", text, "guided_regex")))
    subject.submit(request("plain"))
    stats = subject.stats()
    assert (stats.running, stats.waiting, stats.deferred) == (1, 2, 2), "guides are checked first"
    outputs = finish(subject, 2, patience=30)
    assert outputs["plain"].token_ids == [*PROMPT, 2]
    assert (outputs["bad"].error_code, outputs["bad"].error_param) == ("invalid_value", "guided_regex")
    subject.abort("stuck")
    assert finish(subject, 1)["stuck"].finish_reason == "abort"
    assert len(subject._llm.guides) == 4, "those that were refused did not get that far"


def test_standard_output_is_the_answers(engine: Make, capsys: pytest.CaptureFixture[str]) -> None:
    engine()
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "TensorRT LLM version" in seen.err


@pytest.mark.parametrize(
    "sampling",
    [
        {"seed": 3},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
    ],
)
def test_1_2_refuses_by_name_what_its_sampler_ignores(engine: Make, sampling: dict[str, Any]) -> None:
    info = engine().info
    with pytest.raises(InvalidRequest) as caught:
        check_capabilities(info, request("a", **sampling).sampling, "logprobs")
    assert (caught.value.param, caught.value.code) == (*sampling, "unsupported_parameter")


@pytest.mark.parametrize(
    ("version", "complete"),
    [
        ("1.1.0", False),
        ("1.2.1", False),
        ("1.2.1+local", False),
        ("1.3.0rc15", True),
        ("1.10.0", True),
        ("2.0", True),
    ],
)
def test_sampler_by_version(version: str, complete: bool) -> None:
    assert pytorch.has_complete_sampler(version) is complete


def test_not_installed(demo_dir: Path) -> None:
    with pytest.raises(ConfigError, match="tensorrt_llm_pytorch cannot be imported"):
        load(demo_dir, TensorRTLLMSettings())
