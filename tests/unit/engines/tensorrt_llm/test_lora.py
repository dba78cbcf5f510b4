"""Adapters on the strict fake, which answers with the prompt shifted by the first weight of the adapter."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.engine_dir import LORA, make_adapter
from tests.unit.engines.tensorrt_llm.conftest import FAKES, record
from tests.unit.engines.tensorrt_llm.test_executor import PROMPT, finish
from tests.unit.engines.tensorrt_llm.test_executor import request as base_request
from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import GenerationRequest

Make = Callable[..., ExecutorEngine]


def request(name: str, adapter: str | None, *given: Any, **sampling: Any) -> GenerationRequest:
    return msgspec.structs.replace(base_request(name, *given, **sampling), adapter=adapter)


@pytest.fixture
def lora(engine: Make, tmp_path: Path) -> Make:
    """`engine` with the adapters a (shift 1), b (shift 2) and c (shift 3)."""

    def make(settings: dict[str, Any] | None = None, **behaviour: Any) -> ExecutorEngine:
        directories = {
            name: str(make_adapter(tmp_path / "adapters" / name, shift))
            for shift, name in enumerate("abc", 1)
        }
        return engine(build=LORA, settings={"lora_adapters": directories, **(settings or {})}, **behaviour)

    return make


def sent(tmp_path: Path) -> list[list[Any] | None]:
    """Of each request that the executor got: task id and whether weights came along."""
    return [fact["lora"] for fact in record(tmp_path, "request")]


def test_the_first_request_brings_the_weights(lora: Make, tmp_path: Path) -> None:
    subject = lora()
    for number, adapter in enumerate(("a", "a", None, "b", "a", "b")):
        subject.submit(request(str(number), adapter))
    outputs = finish(subject, 6)
    shifts = [1, 1, 0, 2, 1, 2]
    assert [outputs[str(i)].token_ids for i in range(6)] == [[t + s for t in PROMPT] for s in shifts]
    assert sent(tmp_path) == [[1, True], [1, False], None, [2, True], [1, False], [2, False]]


@pytest.mark.parametrize("world", [1, 2])
def test_an_evicted_adapter_is_sent_again(lora: Make, tmp_path: Path, world: int) -> None:
    subject = lora(lora_cache=1, world=world)
    for turn, adapter in enumerate("abab"):
        subject.submit(request(str(turn), adapter))
        one = finish(subject, 1)[str(turn)]
        assert (one.finish_reason, one.token_ids) == ("stop", [t + "ab".index(adapter) + 1 for t in PROMPT])
    assert sent(tmp_path) == [[1, True], [2, True], [1, False], [1, True], [2, False], [2, True]]
    assert subject.stats().prompt_tokens == 4 * len(PROMPT)
    assert subject.stats().adapters_sent_again == 2


def test_every_request_of_an_evicted_adapter_is_answered(lora: Make) -> None:
    subject = lora(lora_cache=1)
    for adapter in "ab":
        subject.submit(request(adapter, adapter))
        finish(subject, 1)
    for i in range(20):  # more than max_batch_size
        subject.submit(request(str(i), "a"))
    outputs = finish(subject, 20)
    assert {one.finish_reason for one in outputs.values()} == {"stop"}
    assert all(one.token_ids == [t + 1 for t in PROMPT] for one in outputs.values())


def test_a_later_request_that_runs_before_the_first(lora: Make, tmp_path: Path) -> None:
    subject = lora(settings={"max_batch_size": 1}, itl=0.01)
    subject.submit(request("runs", None, max_tokens=5, ignore_eos=True))
    subject.step(0.02)
    subject.submit(request("first", "a"))
    subject.submit(msgspec.structs.replace(request("urgent", "a"), priority=0.9))
    outputs = finish(subject, 3)
    assert outputs["first"].token_ids == outputs["urgent"].token_ids == [t + 1 for t in PROMPT]
    assert sent(tmp_path)[1:] == [[1, True], [1, False], [1, True]]


def test_an_abort_reaches_a_request_that_was_sent_again(lora: Make, tmp_path: Path) -> None:
    subject = lora(lora_cache=1, itl=0.01)
    for adapter in "ab":
        subject.submit(request(adapter, adapter))
        finish(subject, 1)
    subject.submit(request("again", "a", max_tokens=900, ignore_eos=True))
    for _ in range(100):
        subject.step(0.02)
        if len(sent(tmp_path)) == 4:
            break
    assert sent(tmp_path)[2:] == [[1, False], [1, True]]
    subject.abort("again")
    assert finish(subject, 1)["again"].finish_reason == "abort"
    assert record(tmp_path, "cancel")[-1]["id"] == 4


def test_adapters_share_no_kv_blocks(lora: Make) -> None:
    subject = lora()
    prompt = list(range(100, 200))
    cached = []
    for turn, adapter in enumerate((None, "a", "b", "a", None)):
        subject.submit(request(str(turn), adapter, prompt, max_tokens=1))
        cached.append(finish(subject, 1)[str(turn)].cached_tokens)
    assert cached == [0, 0, 0, 100, 100]


def test_a_cache_full_of_running_adapters_refuses_another(lora: Make) -> None:
    subject = lora(lora_cache=1, itl=0.01)
    subject.submit(request("runs", "a", max_tokens=40, ignore_eos=True))
    subject.step(0.02)
    subject.submit(request("refused", "b"))
    refused = finish(subject, 1)["refused"]
    assert (refused.finish_reason, refused.error_code) == ("error", "queue_full")
    assert str(refused.error).startswith("PEFT Cache is full")
    assert finish(subject, 1)["runs"].finish_reason == "length"


def test_an_adapter_that_there_is_not(lora: Make) -> None:
    with pytest.raises(InvalidRequest, match="no adapter 'z'") as caught:
        lora().submit(request("x", "z"))
    assert caught.value.param == "model"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_arrive_in_the_engines_type(
    engine: Make, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor refuses another type; the fake computes with what it got."""
    from tests.fakes import engine_dir

    original = engine_dir.engine_config

    def config(world: int = 1, **build: Any) -> dict[str, Any]:
        made = original(world, **build)
        made["pretrained_config"]["dtype"] = dtype
        return made

    monkeypatch.setattr(engine_dir, "engine_config", config)
    adapter = make_adapter(tmp_path / "a", 5.0, dtype=dtype)
    subject = engine(build=LORA, settings={"lora_adapters": {"a": str(adapter)}})
    subject.submit(request("x", "a"))
    assert finish(subject, 1)["x"].token_ids == [t + 5 for t in PROMPT]


@pytest.fixture
def configs(engine: Make, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that executors are made with."""
    assert str(FAKES) in sys.path
    seen: list[Any] = []
    bindings = importlib.import_module("tensorrt_llm.bindings.executor")
    original = bindings.Executor

    def recorded(*given: Any) -> Any:
        seen.append(given[2])
        return original(*given)

    monkeypatch.setattr(bindings, "Executor", recorded)
    return seen


def test_sizes_of_the_caches_reach_the_executor(lora: Make, configs: list[Any]) -> None:
    lora(settings={"lora_host_cache_bytes": 2**31, "lora_gpu_cache_fraction": 0.1})
    cache = configs[0].peft_cache_config
    assert (cache.host_cache_size, cache.max_adapter_size) == (2**31, 4)
    assert cache.device_cache_percent == pytest.approx(0.1)


def test_without_adapters_nothing_is_said_of_their_cache(engine: Make, configs: list[Any]) -> None:
    engine(build=LORA)
    assert configs[0].peft_cache_config is None


def test_an_engine_without_lora(engine: Make, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    with pytest.raises(ConfigError, match="built without LoRA"):
        engine(settings={"lora_adapters": {"a": str(adapter)}})


def test_the_shim_takes_two_dimensions(lora: Make) -> None:
    """The files have three: sent as they are, every first request would fail."""
    import torch

    bindings = lora()._bindings
    config = torch.zeros(1, 2, 3, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="config tensor to have 2 dimensions"):
        bindings.LoraConfig(1, torch.zeros(1, 2, 8), config)
    with pytest.raises(RuntimeError, match="must also have lora config"):
        bindings.LoraConfig(1, torch.zeros(2, 8))
    assert bindings.LoraConfig(1, torch.zeros(2, 8), config[0]).task_id == 1
