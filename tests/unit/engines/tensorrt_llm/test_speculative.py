"""Speculative decoding: lookahead is used, the rest is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import LOOKAHEAD, make_engine_dir
from tests.unit.engines.tensorrt_llm.conftest import record
from tests.unit.engines.tensorrt_llm.test_executor import PROMPT, finish, request
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, read_engine_dir
from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine
from trtllm_openai.engines.tensorrt_llm.speculative import (
    check_speculation,
    describe,
    draft_length,
    lookahead,
)
from trtllm_openai.errors import CheckpointError, ConfigError

Make = Callable[..., ExecutorEngine]


def built(tmp_path: Path, **build: Any) -> EngineDir:
    return read_engine_dir(make_engine_dir(tmp_path / "m", **build) / "engine")


@pytest.mark.parametrize(
    ("sizes", "length"), [((7, 7, 7), 83), ((4, 3, 4), 15), ((1, 1, 0), 0), ((2, 2, 1), 2)]
)
def test_draft_length(sizes: tuple[int, int, int], length: int) -> None:
    """83 is the example of NVIDIA's examples/lookahead/README.md."""
    assert draft_length(*sizes) == length


@pytest.mark.parametrize(("length", "sizes"), [(83, (7, 7, 7)), (15, (4, 3, 4)), (3, (2, 2, 2))])
def test_sizes_follow_from_the_build(tmp_path: Path, length: int, sizes: tuple[int, int, int]) -> None:
    engine = built(tmp_path, speculative_decoding_mode=8, max_draft_len=length)
    assert lookahead(engine, TensorRTLLMSettings()) == sizes


def test_sizes_that_do_not_follow_have_to_be_said(tmp_path: Path) -> None:
    engine = built(tmp_path, speculative_decoding_mode=8, max_draft_len=40)
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.lookahead: .*max_draft_len 40.*set them"):
        check_speculation(engine, TensorRTLLMSettings())
    check_speculation(engine, TensorRTLLMSettings(lookahead=(5, 5, 5)))
    for sizes, message in (((7, 7, 7), "makes 83 draft tokens"), ((2, 1, 0), r"needs \[1, 1, 0\]")):
        with pytest.raises(ConfigError, match=message):
            check_speculation(engine, TensorRTLLMSettings(lookahead=sizes))


@pytest.mark.parametrize(
    ("mode", "name"), [(4, "medusa"), (16, "explicit_draft_tokens"), (32, "eagle"), (64, "64")]
)
def test_modes_that_are_not_served(tmp_path: Path, mode: int, name: str) -> None:
    engine = built(tmp_path, speculative_decoding_mode=mode, max_draft_len=5)
    assert describe(engine) == f"{name} (not served)"
    with pytest.raises(CheckpointError, match=f"the speculative decoding mode {name}, which this server"):
        check_speculation(engine, TensorRTLLMSettings())


def test_settings_that_a_mode_excludes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.lookahead: .* was not built for it"):
        check_speculation(built(tmp_path / "plain"), TensorRTLLMSettings(lookahead=(2, 2, 2)))
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.guided_decoding: .*lookahead"):
        check_speculation(built(tmp_path / "l", **LOOKAHEAD), TensorRTLLMSettings(guided_decoding=True))
    external = built(tmp_path / "e", speculative_decoding_mode=2, max_draft_len=5)
    check_speculation(external, TensorRTLLMSettings())
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.enable_block_reuse"):
        check_speculation(external, TensorRTLLMSettings(enable_block_reuse=False))


@pytest.mark.parametrize(
    ("settings", "sizes"), [({}, [7, 7, 7]), ({"lookahead": (3, 4, 5)}, [3, 4, 5])], ids=["build", "setting"]
)
def test_lookahead_reaches_the_executor(
    engine: Make, tmp_path: Path, settings: dict[str, Any], sizes: list[int]
) -> None:
    subject = engine(build=LOOKAHEAD, settings=settings, burst=4)
    assert record(tmp_path, "init")[0]["lookahead"] == sizes
    subject.submit(request("a"))
    assert finish(subject, 1)["a"].token_ids == PROMPT


def test_capabilities_follow_from_the_mode(engine: Make, tmp_path: Path) -> None:
    """What the mode's layer ignores is not promised, so that the API refuses it by name."""
    can = engine(build=LOOKAHEAD).info.capabilities
    assert (can.sampling, can.penalties, can.min_p, can.max_logprobs) == (False, False, False, -1)
    assert (can.min_tokens, can.logit_bias, can.seed) == (True, True, True)


def test_an_engine_for_external_drafts_runs_without_them(engine: Make) -> None:
    subject = engine(build={"speculative_decoding_mode": 2, "max_draft_len": 5})
    can = subject.info.capabilities
    assert (can.sampling, can.penalties, can.min_p, can.max_logprobs) == (True, True, False, -1)
    subject.submit(request("a"))
    assert finish(subject, 1)["a"].token_ids == PROMPT


def test_the_shim_checks_as_the_binding(engine: Make) -> None:
    bindings = engine()._bindings
    with pytest.raises(RuntimeError, match="ngramSize=1 requires windowSize=1"):
        bindings.LookaheadDecodingConfig(2, 1, 0)
    sizes = bindings.LookaheadDecodingConfig(2, 2, 1)
    with pytest.raises(RuntimeError, match="DecodingMode is not set to Lookahead"):
        bindings.DecodingConfig(lookahead_decoding_config=sizes)
    with pytest.raises(AttributeError):
        bindings.DecodingConfig().decoding_mode = bindings.DecodingMode.Lookahead()
