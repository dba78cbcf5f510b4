"""The mapping of every sampling parameter, and the traps."""

from typing import Any

import pytest

from trtllm_openai.engines.tensorrt_llm.sampling import to_executor
from trtllm_openai.generation import SamplingParams

EOS = (128001, 128008, 128009)


def mapped(**sampling: Any) -> Any:
    return to_executor(SamplingParams(max_tokens=5, **{"seed": 1, **sampling}), EOS, 7)


@pytest.mark.parametrize(
    ("sampling", "config"),
    [
        ({}, {"temperature": 1.0, "top_p": 1.0, "seed": 1}),  # all left out would be greedy
        ({"temperature": 0.0}, {"top_k": 1, "seed": 1}),
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 7}, {"top_k": 1, "seed": 1}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9, "seed": 1}),
        (
            {"top_k": 40, "min_p": 0.1},
            {"temperature": 1.0, "top_p": 1.0, "top_k": 40, "min_p": 0.1, "seed": 1},
        ),
        ({"seed": -1}, {"temperature": 1.0, "top_p": 1.0, "seed": 2**64 - 1}),
        (
            {
                "min_tokens": 3,
                "repetition_penalty": 1.1,
                "presence_penalty": 0.5,
                "frequency_penalty": -0.5,
            },
            {
                "temperature": 1.0,
                "top_p": 1.0,
                "seed": 1,
                "min_tokens": 3,
                "repetition_penalty": 1.1,
                "presence_penalty": 0.5,
                "frequency_penalty": -0.5,
                "prompt_ignore_length": 7,
            },
        ),
    ],
)
def test_config(sampling: dict[str, Any], config: dict[str, Any]) -> None:
    assert mapped(**sampling).config == config


def test_without_a_seed_every_request_gets_its_own() -> None:
    assert mapped(seed=None).config["seed"] != mapped(seed=None).config["seed"]


def test_ends() -> None:
    plain = mapped()
    assert (plain.end_id, plain.stop_words) == (128001, [[128008], [128009]])
    more = mapped(stop_token_ids=(5, 128009))
    assert more.stop_words == [[128008], [128009], [5]]
    ignored = mapped(ignore_eos=True, stop_token_ids=(5,))
    assert (ignored.end_id, ignored.stop_words) == (-1, [[5]])
    assert mapped(ignore_eos=True).stop_words is None
    nothing = to_executor(SamplingParams(max_tokens=1), (), 7)
    assert (nothing.end_id, nothing.stop_words) == (-1, None)


def test_words_that_must_not_come() -> None:
    assert mapped(bad_words=((5,), (6, 7))).bad_words == [[5], [6, 7]]
    assert mapped().bad_words is None
