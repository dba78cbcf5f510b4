"""Makes drafts for the sequences of a step, from their own text and from texts that are like theirs.

A draft continues the longest match of a sequence's last tokens (`matching`) in its prompt and output, in the
prediction that came with its request, or in earlier answers with the same salt (`answers`). What it drafts
changes no answer, only how many steps it takes.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.answers import Answers
from trtllm_openai.engines.torch.speculation.matching import LONGEST, Match, TokenBuffer, longest_match
from trtllm_openai.engines.torch.speculation.policy import (
    CPU_STEP_COST,
    GPU_READ_COST,
    GPU_STEP_COST,
    Acceptance,
    StepCost,
    worthwhile,
)
from trtllm_openai.engines.torch.speculation.trial import Trial
from trtllm_openai.generation import EngineStats

Mode = Literal["auto", "suffix", "ngram"]
LONG_ENOUGH = 8
"""A match of a sequence's own text that is this long needs no comparison with other texts."""
LONGEST_NGRAM = 4
LEAST_SHARE = 0.2
"""`suffix` ends a draft where fewer of the occurrences than this go on like it."""
PROBE_INTERVAL = 16
"""Tokens between two looks at a sequence whose drafts do not pay: its guess is compared, but not verified."""
MOST_PATIENT = 8
"""Most tokens between two looks at a sequence without a match."""


@dataclass(slots=True)
class Guess:
    """`tokens` may follow the first `at` tokens of a sequence; `chances`: that it is right up to each one."""

    at: int
    tokens: list[int]
    chances: list[float]


@dataclass(slots=True)
class Drafting:
    """What the drafter knows about one sequence."""

    own: TokenBuffer = field(default_factory=TokenBuffer)
    prediction: TokenBuffer | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    guess: Guess | None = None
    look_at: int = 0
    """Number of tokens before which no match is looked for."""
    misses: int = 0
    """Looks in a row that found no match."""


class Drafter:
    """Drafts for one engine.

    `most`: tokens of a draft. `cost`: of a step, by which `auto` decides unless steps show that drafts do not
    pay. `kept`: tokens of earlier answers to draft from. `read_cost`: what it costs to read a step before the
    next one is launched, in steps of one row; None if every step is read first.
    """

    def __init__(
        self, mode: Mode, most: int, cost: StepCost, kept: int = 0, read_cost: float | None = None
    ) -> None:
        self._mode, self._most, self._cost, self._read_cost = mode, most, cost, read_cost
        self._answers = Answers(kept)
        self._trial = Trial() if mode == "auto" else None
        self._unread: deque[tuple[int, bool]] = deque()
        """Steps under way: how many sequences, 0 beside prompts, and whether there are drafts."""
        self._read_at = -math.inf
        self.drafts = 0
        self.drafted = 0
        self.accepted: Counter[int] = Counter()
        """Accepted draft tokens by position."""

    def wants(self, sequences: list[Sequence]) -> bool:
        """Whether to read the step under way before the next one is planned, as drafts would then pay."""
        if self._read_cost is None or not sequences or not self._pays(len(sequences)):
            return False
        flying = [one for one in sequences if one.unread and not one.prefilling and one.matcher is None]
        guesses = self._guesses(flying, len(sequences), 1)
        if self._mode != "auto":
            return any(len(guess.tokens) > 1 for _, guess in guesses)
        chances = [guess.chances[1:] for _, guess in guesses]
        return any(worthwhile(chances, len(sequences), 4 * len(sequences), self._cost, self._read_cost))

    def propose(self, sequences: list[Sequence], most: int) -> dict[Sequence, list[int]]:
        """Drafts for a step that decodes `sequences`, at most `most` tokens in all."""
        if most <= 0 or not self._pays(len(sequences)):
            return {}
        guesses = self._guesses([one for one in sequences if not one.unread], len(sequences), 0)
        if self._mode == "auto":
            chances = [guess.chances for _, guess in guesses]
            kept = worthwhile(chances, len(sequences), most, self._cost, self._read_cost or 0.0)
        else:
            kept = _in_turn([len(guess.tokens) for _, guess in guesses], most)
        return {
            sequence: guess.tokens[:count]
            for (sequence, guess), count in zip(guesses, kept, strict=True)
            if count
        }

    def launched(self, plan: Plan) -> None:
        """Note that a step was launched. Steps are read in the order of their launches."""
        self._unread.append((0 if plan.prefill else len(plan.decode), bool(plan.drafts)))

    def read(self, tokens: int, at: float) -> None:
        """Note that a step was read, and how many tokens count. `at`: seconds of a monotonic clock.

        A step takes from the read before its own to its own, with all that is done in between: while
        sequences decode, one step follows the other.
        """
        seconds, self._read_at = at - self._read_at, at
        if not self._unread:
            return
        sequences, drafted = self._unread.popleft()
        if self._trial is not None and sequences and seconds < math.inf:
            self._trial.note(sequences, tokens, seconds, drafted=drafted)

    def judge(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """A draft of `drafted` tokens was verified, of which the first `accepted` are in the answer."""
        self.drafts += 1
        self.drafted += drafted
        self.accepted.update(range(accepted))
        state: Drafting | None = sequence.drafting
        if state is not None:
            state.acceptance.note(accepted, drafted)
            state.guess = None

    def count(self, stats: EngineStats) -> None:
        """Set the totals of all drafts."""
        stats.drafts, stats.draft_tokens = self.drafts, self.drafted
        stats.accepted_draft_tokens = {str(position): count for position, count in self.accepted.items()}

    def ended(self, sequence: Sequence) -> None:
        """The sequence has ended: its answer is kept."""
        sequence.drafting = None
        start = sequence.prompt_tokens
        prompt = sequence.tokens[max(0, start - LONGEST) : start]
        self._answers.add(sequence.request.cache_salt, prompt, sequence.tokens[start:])

    def _pays(self, sequences: int) -> bool:
        return self._trial is None or self._trial.allows(sequences)

    def _guesses(self, sequences: list[Sequence], rows: int, unread: int) -> list[tuple[Sequence, Guess]]:
        """Guesses for some of `sequences`, in a step that decodes `rows`."""
        found = []
        least = self._cost.least_chance(rows) if self._mode == "auto" else 0.0
        patience = min(MOST_PATIENT, rows // 2) if self._mode == "auto" else 0
        for sequence in sequences:
            most = min(self._most, sequence.request.sampling.max_tokens - sequence.generated - unread - 1)
            if most <= 0:
                continue
            guess = self._guess(sequence, most + unread, least, patience)
            if guess is not None:
                found.append((sequence, guess))
        return found

    def _guess(self, sequence: Sequence, most: int, least: float, patience: int) -> Guess | None:
        state: Drafting | None = sequence.drafting
        end = len(sequence.tokens)
        if state is None:
            if Acceptance().rate < least:
                return None
            state = sequence.drafting = _begin(sequence)
        if (guess := _again(state, sequence)) is not None:
            return guess
        if end < state.look_at:
            return None
        if state.acceptance.rate < least:
            state.look_at = end + PROBE_INTERVAL
        match = self._match(sequence, state)
        if match is None:
            state.misses += 1
            state.look_at = max(state.look_at, end + min(state.misses, patience))
            return None
        state.misses = 0
        guess = self._follow(match, end, most, state.acceptance.rate)
        if guess is not None and sequence.matcher is not None:
            count = sequence.matcher.agrees(guess.tokens)
            guess = Guess(end, guess.tokens[:count], guess.chances[:count]) if count else None
        state.guess = guess
        return guess

    def _match(self, sequence: Sequence, state: Drafting) -> Match | None:
        state.own.extend(sequence.tokens[len(state.own) :])
        own = state.own.tokens
        longest = LONGEST_NGRAM if self._mode == "ngram" else LONGEST
        best = longest_match(own, own, longest, own=True)
        if best is not None and best.length >= LONG_ENOUGH:
            return best
        others = [
            state.prediction.tokens if state.prediction is not None else None,
            self._answers.of(sequence.request.cache_salt),
        ]
        for text in others:
            if text is None:
                continue
            match = longest_match(text, own[-longest:], longest)
            if match is not None and (best is None or match.length > best.length):
                best = match
        return best

    def _follow(self, match: Match, end: int, most: int, rate: float) -> Guess | None:
        if self._mode == "ngram":
            tokens = match.latest(most)
            return Guess(end, tokens, [1.0] * len(tokens)) if tokens else None
        tokens, shares = match.likeliest(min(most, 2 * match.length))
        if self._mode == "suffix":
            tokens = [token for token, share in zip(tokens, shares, strict=True) if share >= LEAST_SHARE]
            return Guess(end, tokens, shares[: len(tokens)]) if tokens else None
        each = rate * (1 - 0.6 / match.length)  # short matches are often coincidences
        chances = [share * each ** (index + 1) for index, share in enumerate(shares)]
        return Guess(end, tokens, chances) if tokens else None


def make_drafter(settings: TorchSettings, *, overlaps: bool) -> Drafter:
    """The drafter of an engine whose `speculation` is not off. `overlaps`: that of its executor, on a GPU."""
    assert settings.speculation != "off"
    return Drafter(
        settings.speculation,
        settings.speculation_max_draft,
        GPU_STEP_COST if overlaps else CPU_STEP_COST,
        settings.speculation_history_tokens if settings.enable_prefix_caching else 0,
        GPU_READ_COST if overlaps else None,
    )


def _begin(sequence: Sequence) -> Drafting:
    state = Drafting()
    predicted = sequence.request.prediction_token_ids
    if predicted:
        # After the end of the prompt, where its beginning belongs.
        start = sequence.prompt_tokens
        state.prediction = TokenBuffer()
        state.prediction.extend(sequence.tokens[max(0, start - LONGEST) : start] + predicted)
    return state


def _again(state: Drafting, sequence: Sequence) -> Guess | None:
    """The rest of the last guess, if it still holds; else it is settled, and the sequence's acceptance."""
    guess, tokens = state.guess, sequence.tokens
    if guess is None:
        return None
    new = len(tokens) - guess.at
    if new == 0:
        return guess
    right = 0
    while right < min(new, len(guess.tokens)) and tokens[guess.at + right] == guess.tokens[right]:
        right += 1
    state.guess = None
    state.acceptance.note(right, min(new, len(guess.tokens)))
    if new == right == 1 and len(guess.tokens) > 1:
        share = guess.chances[0] or 1.0
        state.guess = Guess(len(tokens), guess.tokens[1:], [chance / share for chance in guess.chances[1:]])
    return state.guess


def _in_turn(wanted: list[int], most: int) -> list[int]:
    """Give each draft its tokens while `most` lasts."""
    kept = []
    for count in wanted:
        kept.append(min(count, most))
        most -= kept[-1]
    return kept
