"""One choice's engine output as text: detokenised, cut at stop strings, with its log-probabilities.

Works token by token, so that text, finish reason and token count are the same however the engine's deltas
were grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.generation import StepOutput, TokenLogprobs
from app.text.detokenizer import Detokenizer
from app.text.stops import StopMatcher
from app.text.tokenizer import Tokenizer


@dataclass(slots=True)
class TextDelta:
    """What one engine delta added to a choice. May be empty while text is held back.

    `logprobs` and `text_offsets` have an item for each token that counts; an offset is the position in the
    choice's text at which the token's text begins. `stop_reason` is the stop string or requested stop token
    that ended the choice, None for an end-of-sequence token.
    """

    text: str = ""
    logprobs: list[TokenLogprobs] | None = None
    text_offsets: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class ChoiceDecoder:
    """Turns the `StepOutput`s of one sequence into `TextDelta`s."""

    __slots__ = ("_detokenizer", "_length", "_stop_token_ids", "_stops", "completion_tokens", "finished")

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), stop_token_ids: Sequence[int] = ()
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(stop) if stop else None
        self._stop_token_ids = stop_token_ids
        self._length = 0  # characters, those held back included
        self.completion_tokens = 0
        """Tokens that count: all up to the one that completed a stop string, the end token included."""
        self.finished = False

    def push(self, output: StepOutput) -> TextDelta:
        """The text of one engine delta. Nothing may follow once `finished`."""
        delta = TextDelta()
        pieces: list[str] = []
        last = len(output.token_ids) - 1
        for index, token in enumerate(output.token_ids):
            self.completion_tokens += 1
            if output.logprobs is not None:
                delta.logprobs = delta.logprobs or []
                delta.logprobs.append(output.logprobs[index])
                delta.text_offsets.append(self._length)
            if index == last and output.stop_token_id is not None:
                break  # the end token has no text
            text = self._detokenizer.push(token)
            if text and self._add(text, pieces):
                break
        if not self._matched and output.finish_reason is not None:
            self._end(output, pieces, delta)
        if self._matched:
            delta.finish_reason, delta.stop_reason = "stop", self._matched
        self.finished = delta.finish_reason is not None
        delta.text = "".join(pieces)
        return delta

    @property
    def _matched(self) -> str | None:
        return self._stops.matched if self._stops is not None else None

    def _add(self, text: str, pieces: list[str]) -> bool:
        """Add text; True when it completed a stop string."""
        self._length += len(text)
        if self._stops is None:
            pieces.append(text)
            return False
        pieces.append(self._stops.push(text))
        return self._stops.matched is not None

    def _end(self, output: StepOutput, pieces: list[str], delta: TextDelta) -> None:
        rest = self._detokenizer.flush()
        if rest and self._add(rest, pieces):
            return
        if self._stops is not None:
            pieces.append(self._stops.flush())
        delta.finish_reason = output.finish_reason
        if output.stop_token_id in self._stop_token_ids:
            delta.stop_reason = output.stop_token_id
