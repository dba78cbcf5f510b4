"""Engine deltas to text: the choices of one request, and the decoder that feeds each its tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.errors import ApiError
from trtllm_openai.errors import InvalidRequest, Overloaded
from trtllm_openai.generation import QUEUE_FULL, StepOutput


@dataclass(slots=True)
class Decoded:
    """The text of some engine deltas, and the error that ended the request after it, if one did."""

    deltas: list[Delta]
    error: Exception | None = None


class RequestDecoder:
    """Turns the engine deltas of a request's sequences into text deltas of its choices.

    `abort` ends one sequence in the engine: it is called when a stop string, which the engine does not know,
    ended a choice. `overloaded` makes the error for the code of a sequence that the engine's queue refused.
    """

    __slots__ = ("_abort", "_accounting", "_by_id", "_overloaded", "open_choices")

    def __init__(
        self,
        choices: list[Choice],
        accounting: Accounting,
        abort: Callable[[str], None],
        overloaded: Callable[[str], Overloaded],
    ) -> None:
        self._by_id = {choice.request.request_id: choice for choice in choices}
        self._accounting = accounting
        self._abort = abort
        self._overloaded = overloaded
        self.open_choices = len(choices)
        """Choices without a finish reason."""

    def decode(self, outputs: list[StepOutput]) -> Decoded:
        """Decode deltas in order, up to the first error; text that came before the error is kept."""
        decoded = Decoded([])
        for output in outputs:
            choice = self._by_id[output.request_id]
            if choice.decoder.finished:
                continue
            if output.cached_tokens:
                self._accounting.prefix_hit(choice, output.cached_tokens)
            if not choice.begun and not self._begin(choice, output):
                continue
            if output.error is not None or output.error_code is not None:
                decoded.error = self.error(output)
                break
            if output.drafted:
                self._accounting.draft_verified(output)
            try:
                delta = choice.decoder.push(output)
            except (ApiError, InvalidRequest, Overloaded) as error:
                decoded.error = error
                break
            if delta.finish_reason is not None:
                self._finish(choice, output, delta.finish_reason)
            decoded.deltas.append((choice, delta))
        return decoded

    def _begin(self, choice: Choice, output: StepOutput) -> bool:
        """Account for a choice's first outputs. Returns False for one that only says that it has begun."""
        self._accounting.begin(choice, output)
        if not output.token_ids and output.finish_reason is None:
            return False
        choice.begun = True
        choice.prompt_logprobs = output.prompt_logprobs
        return True

    def _finish(self, choice: Choice, output: StepOutput, reason: str) -> None:
        self.open_choices -= 1
        choice.finish_reason = reason
        self._accounting.finish_sequence(reason)
        if output.finish_reason is None:  # a stop string ended it here, not in the engine
            self._abort(output.request_id)

    def error(self, output: StepOutput) -> Exception:
        """The client's error for an output that reports one."""
        if output.error_code == QUEUE_FULL:
            return self._overloaded(QUEUE_FULL)
        if output.error_code is not None:  # the engine rejects the request, such as for a bad grammar
            return InvalidRequest(output.error or "refused", output.error_param, output.error_code)
        return ApiError(500, f"Generation failed: {output.error}.", code="generation_failed")
