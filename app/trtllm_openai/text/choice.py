"""Decoding of one choice: engine outputs to text, with stop strings, log-probabilities and parsed events.

Tokens are processed one by one, so that text, finish reason and token count do not depend on how the engine
groups tokens into outputs.
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
    """Rules for decoding a choice.

    `stop` and `stop_token_ids` end the choice; `include_stop` keeps the stop string or token in its text.
    `visible_special_ids`: special tokens that are kept in the text; all others are skipped. `with_ids`: the
    deltas have `token_ids`.
    """

    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop: bool = False
    visible_special_ids: Container[int] = ()
    with_ids: bool = False


PLAIN = TextRules()


class TextDelta(msgspec.Struct):  # one per token: a Struct takes a fifth of a dataclass's time to create
    """Text that one engine output adds to a choice; empty while all of it is held back.

    `logprobs` and `text_offsets` have an item per counted token; an offset is the position, in characters, of
    the token's text in the choice's text. With a parser, `events` has the parsed content, reasoning and tool
    calls, and `text` the raw text including markup. `stop_reason` is the stop string or requested stop token
    that ended the choice, None for an end-of-sequence token. `token_ids`: of the counted tokens, also where
    their text is held back, if the rules want them.
    """

    text: str = ""
    logprobs: list[TokenLogprobs] | None = None
    text_offsets: list[int] = []
    events: list[Event] = []
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChoiceDecoder:
    """Decodes the `StepOutput`s of one sequence into `TextDelta`s."""

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
        self._detokenizer = Detokenizer(tokenizer, rules.visible_special_ids)
        self._stops = StopMatcher(rules.stop, include=rules.include_stop) if rules.stop else None
        self._rules = rules
        self._parser = parser
        self.parsed = parser is not None
        """Whether there is a parser, so that deltas have `events`."""
        # Whether only detokenization is needed.
        self._plain = parser is None and self._stops is None and not rules.with_ids
        self._called = False
        self._length = 0  # characters of the text, including those held back
        self.completion_tokens = 0
        """Tokens so far, up to the one that completed a stop string, including the end token."""
        self.reasoning_tokens = 0
        """The part of `completion_tokens` inside reasoning tags."""
        self.finished = False

    def push(self, output: StepOutput) -> TextDelta:
        """Decode one engine output. Must not be called again once `finished`."""
        if self._plain and output.finish_reason is None and output.logprobs is None:
            ids = output.token_ids
            push = self._detokenizer.push
            text = push(ids[0]) if len(ids) == 1 else "".join(map(push, ids))
            self.completion_tokens += len(ids)
            self._length += len(text)
            return TextDelta(text)
        delta = TextDelta()
        if self._rules.with_ids:
            delta.token_ids = []
        pieces: list[str] = []
        last = len(output.token_ids) - 1
        for index, token in enumerate(output.token_ids):
            self.completion_tokens += 1
            if delta.token_ids is not None:
                delta.token_ids.append(token)
            if self._parser is not None and self._parser.in_reasoning:
                self.reasoning_tokens += 1
            if output.logprobs is not None and not (self._parser is not None and self._parser.hides):
                delta.logprobs = delta.logprobs or []
                delta.logprobs.append(output.logprobs[index])
                delta.text_offsets.append(self._length)
            if index == last and output.stop_token_id is not None and not self._shows(token):
                break  # the text of the end token is not part of the choice
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
        """Add text. Returns True if it completed a stop string."""
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
