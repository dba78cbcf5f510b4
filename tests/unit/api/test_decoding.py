"""Engine outputs as text of choices: order, the first error, and sequences that a stop string ends."""

from typing import Any

import pytest

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.decoding import RequestDecoder
from trtllm_openai.api.errors import ApiError
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest, Overloaded
from trtllm_openai.generation import QUEUE_FULL, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import Admission, SharedCounters
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import ChoiceDecoder, TextRules
from trtllm_openai.text.tokenizer import Tokenizer


class Decoding:
    """Two sequences, "a" and "b", that end at the text STOP."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.aborted: list[str] = []
        self.metrics = Metrics()
        self.admission = Admission(LimitSettings(), lambda _: None, SharedCounters.alone())
        self.choices = [
            Choice(
                index,
                GenerationRequest(name, [1], SamplingParams(max_tokens=9)),
                ChoiceDecoder(tokenizer, TextRules(stop=("STOP",))),
            )
            for index, name in enumerate("ab")
        ]
        ticket = self.admission.enter("", [1, 1])
        self.accounting = Accounting(
            self.metrics, RequestRecord(), ticket, self.choices, prompt_tokens=2, started=0.0
        )
        self.decoder = RequestDecoder(
            self.choices, self.accounting, self.aborted.append, lambda code: Overloaded("late", code, 1)
        )

    def output(self, name: str, text: str, reason: Any = None, **fields: Any) -> StepOutput:
        return StepOutput(name, self.tokenizer.encode(text, add_special_tokens=False), reason, **fields)


@pytest.fixture
def decoding(demo_tokenizer: Tokenizer) -> Decoding:
    return Decoding(demo_tokenizer)


def test_each_output_goes_to_its_choice(decoding: Decoding) -> None:
    outputs = [decoding.output("b", "x "), decoding.output("a", "y"), decoding.output("b", "z", "length")]
    decoded = decoding.decoder.decode(outputs)
    texts = dict.fromkeys(range(2), "")
    for choice, delta in decoded.deltas:
        texts[choice.index] += delta.text
    assert (texts, decoded.error) == ({0: "y", 1: "x z"}, None)
    assert [choice.finish_reason for choice in decoding.choices] == [None, "length"]
    assert decoding.decoder.open_choices == 1
    assert decoding.aborted == [], "the engine ended it by itself"


def test_drafts_are_counted_while_a_choice_is_open(decoding: Decoding) -> None:
    outputs = [
        decoding.output("a", "x y", drafted=5, accepted=1),
        decoding.output("a", "z", "length"),
        decoding.output("a", "late", drafted=9),
    ]
    decoding.decoder.decode(outputs)
    details = decoding.accounting.usage().completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (1, 4)


def test_a_stop_string_ends_the_sequence_in_the_engine(decoding: Decoding) -> None:
    decoded = decoding.decoder.decode([decoding.output("a", "xSTOPy")])
    assert decoded.deltas[0][1].text == "x"
    assert decoding.aborted == ["a"]
    assert decoding.choices[0].finish_reason == "stop"
    assert decoding.decoder.decode([decoding.output("a", "late")]).deltas == []


def test_text_before_an_error_is_kept_and_nothing_after_it(decoding: Decoding) -> None:
    outputs = [
        decoding.output("a", "kept"),
        decoding.output("b", "", "error", error="it broke"),
        decoding.output("a", "lost"),
    ]
    decoded = decoding.decoder.decode(outputs)
    assert [delta.text for _, delta in decoded.deltas] == ["kept"]
    assert isinstance(decoded.error, ApiError)
    assert (decoded.error.status, decoded.error.code) == (500, "generation_failed")
    assert "it broke" in decoded.error.message


def test_a_refusal_names_the_parameter(decoding: Decoding) -> None:
    refused = decoding.output("a", "", "error", error="no", error_code="bad", error_param="guided_regex")
    error = decoding.decoder.decode([refused]).error
    assert isinstance(error, InvalidRequest)
    assert (str(error), error.param, error.code) == ("no", "guided_regex", "bad")


def test_the_engines_full_queue_is_an_overload(decoding: Decoding) -> None:
    late = decoding.output("a", "", "error", error="x", error_code=QUEUE_FULL)
    assert isinstance(decoding.decoder.decode([late]).error, Overloaded)


def test_the_first_output_begins_a_choice_once(decoding: Decoding) -> None:
    decoding.decoder.decode([decoding.output("a", "x", prompt_logprobs=[None], cached_tokens=1)])
    decoding.decoder.decode([decoding.output("a", "y")])
    assert decoding.choices[0].prompt_logprobs == [None]
    assert decoding.admission.waiting == 1
    assert decoding.metrics.prefix_hits.value == 1
