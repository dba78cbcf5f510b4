"""One choice's engine output as text: detokenised, cut at stop strings, with its log-probabilities.

Works token by token, so that text, finish reason and token count are the same however the engine's deltas
were grouped.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import msgspec

from trtllm_openai.generation import StepOutput, TokenLogprobs
from trtllm_openai.text.detokenizer import Detokenizer
from trtllm_openai.text.events import CallStart, Event, OutputParser, merged
from trtllm_openai.text.stops import StopMatcher
from trtllm_openai.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextRules:
    """How an answer's tokens become its text.

    `stop`: strings that end it, which belong to it only if `include_stop`. `stop_token_ids` likewise.
    `shown`: special tokens that are shown; the others have no text.
    """

    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop: bool = False
    shown: Container[int] = ()


PLAIN = TextRules()


class TextDelta(msgspec.Struct):  # made in a fifth of a dataclass's time, for every token
    """What one engine delta added to a choice. May be empty while text is held back.

    `logprobs` and `text_offsets` have an item for each token that counts; an offset is the position in the
    choice's text at which the token's text begins. `events` say what the text is, where a parser was given;
    `text` is then all of it, markup included. `stop_reason` is the stop string or requested stop token
    that ended the choice, None for an end-of-sequence token.
    """

    text: str = ""
    logprobs: list[TokenLogprobs] | None = None
    text_offsets: list[int] = []
    events: list[Event] = []
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class ChoiceDecoder:
    """Turns the `StepOutput`s of one sequence into `TextDelta`s."""

    __slots__ = (
        "_called",
        "_detokenizer",
        "_length",
        "_parser",
        "_plain",
        "_rules",
        "_stops",
        "completion_tokens",
        "finished",
        "parsed",
        "reasoning_tokens",
    )

    def __init__(
        self, tokenizer: Tokenizer, rules: TextRules = PLAIN, parser: OutputParser | None = None
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, rules.shown)
        self._stops = StopMatcher(rules.stop, include=rules.include_stop) if rules.stop else None
        self._rules = rules
        self._parser = parser
        self.parsed = parser is not None
        """Whether deltas say by `events` what their text is."""
        self._plain = parser is None and self._stops is None  # nothing to do but to detokenise
        self._called = False
        self._length = 0  # characters, those held back included
        self.completion_tokens = 0
        """Tokens that count: all up to the one that completed a stop string, the end token included."""
        self.reasoning_tokens = 0
        """Those of them that belong to the model's thinking."""
        self.finished = False

    def push(self, output: StepOutput) -> TextDelta:
        """The text of one engine delta. Nothing may follow once `finished`."""
        if self._plain and output.finish_reason is None and output.logprobs is None:
            ids = output.token_ids
            push = self._detokenizer.push
            text = push(ids[0]) if len(ids) == 1 else "".join(map(push, ids))
            self.completion_tokens += len(ids)
            self._length += len(text)
            return TextDelta(text)
        delta = TextDelta()
        pieces: list[str] = []
        last = len(output.token_ids) - 1
        for index, token in enumerate(output.token_ids):
            self.completion_tokens += 1
            if self._parser is not None and self._parser.in_reasoning:
                self.reasoning_tokens += 1
            if output.logprobs is not None:
                delta.logprobs = delta.logprobs or []
                delta.logprobs.append(output.logprobs[index])
                delta.text_offsets.append(self._length)
            if index == last and output.stop_token_id is not None and not self._shows(token):
                break  # the end token has no text
            text = self._detokenizer.push(token)
            if text and self._add(text, pieces, delta):
                break
        if not self._matched and output.finish_reason is not None:
            self._end(output, pieces, delta)
        if self._matched:
            delta.finish_reason, delta.stop_reason = "stop", self._matched
        self.finished = delta.finish_reason is not None
        delta.text = "".join(pieces)
        if self._parser is not None:
            self._parse_end(delta)
        return delta

    @property
    def _matched(self) -> str | None:
        return self._stops.matched if self._stops is not None else None

    def _shows(self, end_token: int) -> bool:
        return self._rules.include_stop and end_token in self._rules.stop_token_ids

    def _add(self, text: str, pieces: list[str], delta: TextDelta) -> bool:
        """Add text; True when it completed a stop string."""
        self._length += len(text)
        if self._stops is not None:
            text = self._stops.push(text)
        self._give(text, pieces, delta)
        return self._matched is not None

    def _give(self, text: str, pieces: list[str], delta: TextDelta) -> None:
        if text:
            pieces.append(text)
            if self._parser is not None:
                delta.events += self._parser.push(text)

    def _end(self, output: StepOutput, pieces: list[str], delta: TextDelta) -> None:
        rest = self._detokenizer.flush()
        if rest and self._add(rest, pieces, delta):
            return
        if self._stops is not None:
            self._give(self._stops.flush(), pieces, delta)
        delta.finish_reason = output.finish_reason
        if output.stop_token_id in self._rules.stop_token_ids:
            delta.stop_reason = output.stop_token_id

    def _parse_end(self, delta: TextDelta) -> None:
        if self.finished and self._parser is not None:
            delta.events += self._parser.finish()
        self._called = self._called or any(isinstance(event, CallStart) for event in delta.events)
        if self._called and delta.finish_reason == "stop":
            delta.finish_reason = "tool_calls"
        delta.events = merged(delta.events)
