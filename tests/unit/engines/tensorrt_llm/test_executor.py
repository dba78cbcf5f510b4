"""The Engine contract over the strict fake of the executor bindings."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import pytest

from tests.fakes.engine_dir import make_engine_dir
from tests.unit.engines.tensorrt_llm.conftest import EOS, record
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm import executor, guide_check, guided_requests
from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine
from trtllm_openai.engines.tensorrt_llm.loader import eos_token_first, load
from trtllm_openai.errors import CheckpointError, ConfigError, InvalidRequest
from trtllm_openai.generation import GenerationRequest, Guide, GuideKind, SamplingParams, StepOutput

Make = Callable[..., ExecutorEngine]
PROMPT = [10, 11, 12, 13]
TAG = '{"type":"structural_tag","format":{"type":"const_string","value":"x"}}'


def request(name: str, prompt: list[int] = PROMPT, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        name, prompt, SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **sampling})
    )


def finish(engine: ExecutorEngine, count: int, patience: float = 5.0) -> dict[str, StepOutput]:
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
            one.cached_tokens += output.cached_tokens
            one.finish_reason, one.stop_token_id = output.finish_reason, output.stop_token_id
            one.error, one.error_code = output.error, output.error_code
            one.error_param = output.error_param
            done += output.finish_reason is not None
    return whole


@pytest.mark.parametrize("burst", [1, 3])
def test_requests_in_flight_together(engine: Make, burst: int) -> None:
    subject = engine(burst=burst)
    for i in range(20):  # more than max_batch_size
        subject.submit(request(str(i), [100 + i, 200 + i]))
    outputs = finish(subject, 20)
    for i in range(20):
        one = outputs[str(i)]
        assert (one.token_ids, one.finish_reason) == ([100 + i, 200 + i], "stop")
    assert subject.stats().running == 0
    assert subject.stats().generated_tokens == 40


@pytest.mark.parametrize("included", [False, True])
def test_end_token_that_may_be_among_the_tokens(engine: Make, included: bool) -> None:
    subject = engine(end_token_included=included)
    subject.submit(request("a"))
    one = finish(subject, 1)["a"]
    assert (one.token_ids, one.finish_reason, one.stop_token_id) == (
        ([*PROMPT, 2], "stop", 2) if included else (PROMPT, "stop", None)
    )


def test_every_end(engine: Make) -> None:
    subject = engine()
    subject.submit(request("length", max_tokens=3))
    subject.submit(request("stop", stop_token_ids=(12,)))
    subject.submit(request("ignored", max_tokens=9, ignore_eos=True))
    subject.submit(request("second eos", [10, 4, 11]))
    outputs = finish(subject, 4)
    assert (outputs["length"].token_ids, outputs["length"].finish_reason) == (PROMPT[:3], "length")
    assert (outputs["stop"].token_ids, outputs["stop"].stop_token_id) == ([10, 11, 12], 12)
    assert outputs["ignored"].token_ids == (PROMPT * 3)[:9]
    assert (outputs["second eos"].finish_reason, outputs["second eos"].stop_token_id) == ("stop", 4)


def test_bias_logprobs_and_reuse(engine: Make) -> None:
    subject = engine()
    subject.submit(request("bias", logit_bias={77: 100.0}, max_tokens=3))
    subject.submit(request("logprobs", logprobs=0))
    long = list(range(100, 200))
    subject.submit(request("first", long, max_tokens=1))
    outputs = finish(subject, 3)
    assert outputs["bias"].token_ids == [77] * 3
    logprobs = outputs["logprobs"].logprobs
    assert logprobs is not None
    assert [(one.token_id, one.logprob) for one in logprobs] == list(
        zip(PROMPT, [-0.25, -0.5, -0.75, -1.0], strict=True)
    )
    subject.submit(request("again", long, max_tokens=4))
    assert finish(subject, 1)["again"].cached_tokens == 100  # four blocks of 32, the last one in part


def test_bad_words_do_not_come(engine: Make) -> None:
    subject = engine()
    first, second, third = PROMPT[:3]
    subject.submit(request("one token", bad_words=((second,),), max_tokens=3))
    subject.submit(request("two", bad_words=((first, second), (first, third)), max_tokens=2))
    outputs = finish(subject, 2)
    assert outputs["one token"].token_ids == [first, second + 1, third]
    assert outputs["two"].token_ids == [first, third + 1]


@pytest.mark.parametrize("final", [True, False])
def test_abort_does_not_wait_for_the_executor(engine: Make, final: bool, tmp_path: Path) -> None:
    subject = engine(final_on_cancel=final, itl=0.01)
    subject.submit(request("a", max_tokens=900, ignore_eos=True))
    subject.submit(request("b", max_tokens=5, ignore_eos=True))
    subject.step(0.02)
    subject.abort("a")
    subject.abort("a")
    subject.abort("unknown")
    outputs = finish(subject, 2)
    assert outputs["a"].finish_reason == "abort"
    assert len(outputs["b"].token_ids) == 5 or outputs["b"].finish_reason == "length"
    assert len(record(tmp_path, "cancel")) == 1
    assert subject.step(0.01) == []


def test_errors_are_one_sentence(engine: Make) -> None:
    subject = engine(error_after=2)
    subject.submit(request("a"))
    one = finish(subject, 1)["a"]
    assert one.finish_reason == "error"
    assert one.error == "Encountered an error in forward: CUDA error"
    with pytest.raises(InvalidRequest, match="exceed the engine's limit of 1024"):
        subject.submit(request("b", max_tokens=1024))
    with pytest.raises(InvalidRequest, match="empty"):
        subject.submit(request("c", []))


@pytest.mark.parametrize("world", [1, 2])
def test_full_queue_has_a_code_of_its_own(engine: Make, world: int) -> None:
    """One GPU: the binding throws at enqueue. An orchestrator: it answers with an error."""
    subject = engine(world=world, settings={"max_queue_size": 1, "max_batch_size": 1})
    for i in range(4):
        subject.submit(request(str(i)))
    outputs = finish(subject, 4).values()
    full = [one for one in outputs if one.error]
    assert full
    assert {one.error_code for one in full} == {"queue_full"}


def test_another_failure_at_enqueue_is_not_the_requests_fault(engine: Make) -> None:
    subject = engine(enqueue_error="CUDA error")
    subject.submit(request("a"))
    one = finish(subject, 1)["a"]
    assert (one.finish_reason, one.error_code) == ("error", None)
    assert "CUDA error" in str(one.error)


@pytest.mark.parametrize("takes_it", [True, False])
def test_penalties_ignore_the_prompt_where_the_binding_can(
    engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_it: bool
) -> None:
    """A keyword that the binding does not know would refuse every request with a penalty."""
    known = executor.has_keyword
    monkeypatch.setattr(executor, "has_keyword", lambda bound, name: takes_it and known(bound, name))
    subject = engine()
    assert not known(subject._bindings.SamplingConfig, "prompt_ignore")
    subject.submit(request("a", presence_penalty=0.5))
    finish(subject, 1)
    sampling = record(tmp_path, "request")[0]["sampling"]
    assert sampling.get("prompt_ignore_length") == (len(PROMPT) if takes_it else None)
    assert sampling["presence_penalty"] == 0.5


def test_a_bad_guide_ends_its_own_request_only(engine: Make, demo_dir: Path, tmp_path: Path) -> None:
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir, itl=0.01)
    for i in range(3):
        subject.submit(request(str(i), max_tokens=30, ignore_eos=True))
    subject.step(0.05)
    bad = Guide("regex", "(", "guided_regex")
    subject.submit(msgspec.structs.replace(request("bad"), guide=bad))
    outputs = finish(subject, 4, patience=30)
    assert (outputs["bad"].error_code, outputs["bad"].error_param) == ("invalid_value", "guided_regex")
    assert [outputs[str(i)].finish_reason for i in range(3)] == ["length"] * 3
    assert len(record(tmp_path, "request")) == 3


def test_the_engine_is_told_that_guides_take_too_long(
    engine: Make, demo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its queue were full: the guide may be good."""
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    monkeypatch.setattr(guided_requests, "TIMEOUT_S", 0.05)
    stuck = "x".join(["(.{0,1000}){0,1000}"] * 20_000)
    subject.submit(msgspec.structs.replace(request("a"), guide=Guide("regex", stuck)))
    one = finish(subject, 1)["a"]
    assert (one.error_code, one.error) == ("queue_full", "its guide was not checked within 0.05 s")


def test_a_killed_process_of_guides_is_replaced_beside_the_engine(
    engine: Make, demo_dir: Path, tmp_path: Path
) -> None:
    """Guided requests right after wait for the next one, others do not."""
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    checker = subject._guided._checker
    assert checker is not None
    assert checker.pid is not None
    os.kill(checker.pid, signal.SIGKILL)
    for name, guide in (("bad", "("), ("good", "x+")):
        subject.submit(msgspec.structs.replace(request(name), guide=Guide("regex", guide, "guided_regex")))
    subject.submit(request("plain"))
    assert finish(subject, 1).keys() == {"plain"}
    outputs = finish(subject, 2, patience=60)
    assert outputs["bad"].error_param == "guided_regex"
    assert outputs["good"].error is None
    assert len(record(tmp_path, "request")) == 2


def test_without_xgrammar_guides_are_not_checked(
    engine: Make, demo_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guide_check, "find_spec", lambda _: None)
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    assert [one.message for one in caplog.records if "xgrammar is not installed" in one.message]
    subject.submit(msgspec.structs.replace(request("a"), guide=Guide("regex", "(")))
    assert "forwardAsync" in str(finish(subject, 1, patience=30)["a"].error)  # the executor's own error


def test_each_kind_of_guide_is_checked(engine: Make, demo_dir: Path) -> None:
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    bad: dict[GuideKind, str] = {
        "json_schema": '{"type": "nothing"}',
        "regex": "(",
        "grammar": "root ::= missing",
        "structural_tag": "{}",
    }
    for kind, text in bad.items():
        subject.submit(msgspec.structs.replace(request(kind), guide=Guide(kind, text, "guide")))
    subject.submit(msgspec.structs.replace(request("json_object"), guide=Guide("json_object")))
    outputs = finish(subject, 5, patience=30)
    assert {kind: outputs[kind].error_code for kind in bad} == dict.fromkeys(bad, "invalid_value")
    assert outputs["json_object"].finish_reason == "stop"


def test_facts_and_capabilities(engine: Make) -> None:
    subject = engine(build={"max_batch_size": 1})
    info = subject.info
    assert (info.engine, info.max_batch_size, info.max_seq_len, info.kv_block_size) == (
        "tensorrt_llm",
        1,
        1024,
        32,
    )
    assert info.eos_token_ids == EOS
    assert info.capabilities.max_logprobs == 0
    for i in range(3):  # an engine for one sequence serves several by queueing
        subject.submit(request(str(i)))
    assert len(finish(subject, 3)) == 3


def test_without_chunked_context_a_prompt_must_fit_a_step(engine: Make) -> None:
    build = {"max_num_tokens": 512}
    assert engine(build=build, settings={"enable_chunked_context": False}).info.max_seq_len == 512


def test_orchestrator_of_four_ranks(engine: Make, tmp_path: Path) -> None:
    subject = engine(world=4)
    subject.submit(request("a"))
    assert finish(subject, 1)["a"].token_ids == PROMPT
    assert record(tmp_path, "init")[0]["world"] == 4
    assert subject.info.tensor_parallel == 4


def test_what_open_mpi_is_told_before_it_starts_can_be_set_otherwise(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "0")
    with pytest.raises(SystemExit):  # as Open MPI does: there are fewer slots than ranks
        engine(world=4)


def test_a_missing_worker_is_said(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPI_Comm_spawn would not return."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "executorWorker")
    with pytest.raises(ConfigError, match=r"orchestrator needs .*bin/executorWorker, which is not there"):
        engine(world=2)


def test_leader_without_mpi_is_said(engine: Make) -> None:
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.mpi_command.*OMPI_COMM_WORLD_RANK"):
        engine(world=2, settings={"launch": "leader"})


def test_too_few_gpus_and_another_version(
    engine: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="for 8 GPUs"):
        engine(world=8)
    monkeypatch.setenv("FAKE_TRTLLM", '{"version": "1.1.0"}')
    import sys

    sys.modules.pop("tensorrt_llm", None)
    with pytest.raises(CheckpointError, match=r"built by TensorRT-LLM 1\.2\.1, but 1\.1\.0"):
        load(tmp_path / "model" / "engine", tmp_path, TensorRTLLMSettings(), EOS, lambda *_: None, list)


def test_not_installed_is_said(tmp_path: Path) -> None:
    directory = make_engine_dir(tmp_path)
    with pytest.raises(ConfigError, match=r"tensorrt_llm cannot be imported.*--engine torch"):
        load(directory / "engine", tmp_path, TensorRTLLMSettings(), EOS, lambda *_: None, list)


def test_settings_reach_the_executor(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    import importlib
    import sys

    from tests.unit.engines.tensorrt_llm.conftest import FAKES

    assert str(FAKES) in sys.path
    bindings = importlib.import_module("tensorrt_llm.bindings.executor")
    original = bindings.Executor

    def recorded(*args: Any) -> Any:
        seen.append(args)
        return original(*args)

    monkeypatch.setattr(bindings, "Executor", recorded)
    engine(
        settings={
            "kv_cache_memory_fraction": 0.5,
            "kv_cache_tokens": 4096,
            "enable_block_reuse": False,
            "scheduler_policy": "max_utilization",
            "max_batch_size": 99,
            "max_num_tokens": 1000,
            "max_queue_size": 7,
            "recv_poll_period_ms": 5,
            "gpu_weights_percent": 0.8,
        }
    )
    config = seen[0][2]
    assert config.normalize_log_probs is False
    assert config.recv_poll_period_ms == 5
    assert config.kv_cache_config.free_gpu_memory_fraction == 0.5
    assert config.kv_cache_config.max_tokens == 4096
    assert config.kv_cache_config.enable_block_reuse is False
    assert config.scheduler_config.capacity_scheduler_policy.name == "MAX_UTILIZATION"
    assert (config.max_batch_size, config.max_num_tokens, config.max_queue_size) == (8, 1000, 7)
    assert config.gpu_weights_percent == pytest.approx(0.8)
    assert config.enable_chunked_context is True


def test_blocks_of_a_resumed_request_are_not_cached_tokens(engine: Make) -> None:
    subject = engine(pause_after=3)
    subject.submit(request("a", list(range(100, 200)), max_tokens=8))
    assert finish(subject, 1)["a"].cached_tokens == 0


def cached_tokens(engine: ExecutorEngine, salt: str | None) -> int:
    one = request("a", list(range(10, 210)), max_tokens=1)
    engine.submit(msgspec.structs.replace(one, cache_salt=salt))
    return finish(engine, 1)["a"].cached_tokens


def test_blocks_are_shared_among_equal_salts_only(engine: Make) -> None:
    subject = engine(separate_prefixes=True)
    assert subject.info.capabilities.cache_salt
    for salt in (None, "alice", "bob"):
        assert cached_tokens(subject, salt) == 0
    for salt in (None, "alice", "bob"):
        assert cached_tokens(subject, salt) > 100


@pytest.mark.parametrize("separate", [False, True])
def test_without_salts_of_blocks_none_is_shared_between_keys(
    engine: Make, separate: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trtllm_openai.engines.tensorrt_llm.loader.has_cache_salt", lambda _: False)
    subject = engine(separate_prefixes=separate)
    assert not subject.info.capabilities.cache_salt
    assert ("turns block reuse off" in caplog.text) is separate
    assert cached_tokens(subject, "alice") == 0
    assert (cached_tokens(subject, "bob") == 0) is separate


def test_priority_goes_first(engine: Make) -> None:
    subject = engine(settings={"max_batch_size": 1}, itl=0.001)
    for i, priority in enumerate((None, 0.1, 0.9, 0.5)):
        one = request(str(i), max_tokens=3)
        subject.submit(msgspec.structs.replace(one, priority=priority))
    order: list[str] = []
    while len(order) < 4:
        order += [output.request_id for output in subject.step(0.02) if output.finish_reason]
    assert order == ["2", "0", "3", "1"]


def test_the_engines_own_time_limit_is_an_error(engine: Make) -> None:
    subject = engine(itl=0.02)
    one = request("a", max_tokens=900, ignore_eos=True)
    subject.submit(msgspec.structs.replace(one, allotted_ms=50))
    output = finish(subject, 1)["a"]
    assert (output.finish_reason, output.error) == ("error", "the request ran out of its time")
    assert output.token_ids


def test_guided_decoding(engine: Make, demo_dir: Path, tmp_path: Path) -> None:
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    assert set(subject.info.capabilities.guides) == set(get_args(GuideKind))
    guides = [
        Guide("json_object"),
        Guide("json_schema", "{}"),
        Guide("regex", "a+"),
        Guide("grammar", 'root ::= "x"'),
        Guide("structural_tag", TAG),
    ]
    for i, guide in enumerate(guides):
        subject.submit(msgspec.structs.replace(request(str(i)), guide=guide))
    finish(subject, 5, patience=30)
    assert sorted(fact["guide"] for fact in record(tmp_path, "request")) == sorted(
        [
            ["JSON_SCHEMA", '{"type":"object"}'],
            ["JSON_SCHEMA", "{}"],
            ["REGEX", "a+"],
            ["EBNF_GRAMMAR", 'root ::= "x"'],
            ["STRUCTURAL_TAG", TAG],
        ]
    )


def test_guided_decoding_needs_a_tokenizer_file(engine: Make) -> None:
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.guided_decoding"):
        engine(settings={"guided_decoding": True})


def test_the_tokenizers_eos_token_is_the_end_id(engine: Make, demo_dir: Path, tmp_path: Path) -> None:
    """Only the end id is held back by min_tokens."""
    subject = engine(tokenizer=demo_dir)
    subject.submit(request("a"))
    finish(subject, 1)
    assert record(tmp_path, "request")[0]["end_id"] == 2
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<|eot|>"}')
    (directory / "tokenizer.json").write_text('{"added_tokens": [{"id": 4, "content": "<|eot|>"}]}')
    assert eos_token_first(directory, (2, 4)) == (4, 2)
    assert eos_token_first(directory, (2, 3)) == (2, 3)


def test_importing_prints_nothing_on_standard_output(
    engine: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    engine()
    printed = capsys.readouterr()
    assert "TensorRT LLM version" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("value", [1000, "1000", [1000]])
def test_the_shim_takes_a_timedelta_only(engine: Make, value: object) -> None:
    """An int is what the server once sent: nanobind refuses it."""
    subject = engine()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        subject._bindings.Request([1], 1, allotted_time_ms=value)


def test_statistics_of_the_executors_batches(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations between two looks: each is a step, and pauses add up."""
    subject = engine()
    batches = [
        {"numCtxTokens": 40, "numGenRequests": 2, "numPausedRequests": 0},
        {"numCtxTokens": 0, "numGenRequests": 3, "numPausedRequests": 2},
    ]
    facts = [json.dumps({"numActiveRequests": 3, "inflightBatchingStats": batch}) for batch in batches]
    with monkeypatch.context() as patch:
        patch.setattr(subject, "_executor", SimpleNamespace(get_latest_iteration_stats=lambda: facts))
        stats = subject.stats()
    assert stats.step_token_counts == [0, 1, 0, 0, 1, *[0] * 9]
    assert (stats.step_tokens, stats.preemptions, stats.deferred) == (45, 2, 0)


def test_a_guide_that_is_checked_waits_for_no_room(engine: Make, demo_dir: Path) -> None:
    subject = engine(settings={"guided_decoding": True}, tokenizer=demo_dir)
    subject.submit(msgspec.structs.replace(request("g"), guide=Guide("regex", "a+", "guided_regex")))
    assert (subject.stats().waiting, subject.stats().deferred) == (1, 1)
    finish(subject, 1, patience=30)
    assert (subject.stats().waiting, subject.stats().deferred) == (0, 0)
