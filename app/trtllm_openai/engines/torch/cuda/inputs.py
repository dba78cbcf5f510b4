"""Builds step inputs in pinned memory and uploads them: one copy for a decode step, two with prefill chunks.

The front of the buffer has a fixed layout with all inputs of a decode step, so that CUDA graphs can hold its
addresses. Block tables follow; a region at a fixed place holds the inputs of steps with prefill chunks
(`mixed_inputs.py`). Each running sequence has a slot number from 1 to `max_batch_size`, which indexes its
last token on the device and its block table and sampling parameters on the host. A row of a draft token is
like another sequence with the same block table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trtllm_openai.engines.torch.cuda import mixed_inputs
from trtllm_openai.engines.torch.cuda.mixed_inputs import Mixed, Shape
from trtllm_openai.engines.torch.cuda.model import Rows
from trtllm_openai.engines.torch.kv_cache import blocks_for
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sampler import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, uniform
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import spread

HEADER = 4
BUFFERS = 3
"""Input buffers in use at once: one step computing, one launched, one being written."""
WORDS_PER_ROW = 13
"""int32 words per row in the front of the buffer, see `Front`."""


@dataclass(frozen=True, slots=True)
class Front:
    """Views of the front of the buffer for `max_batch_size` rows; int32 except `uniform` and `cuts`."""

    table_stride: torch.Tensor
    uniform: torch.Tensor
    """float64"""
    cuts: torch.Tensor
    """float32 [rows, 4]: temperature, top_p, min_p"""
    top_k: torch.Tensor
    sampled: torch.Tensor
    """Slot numbers of the sequences that get a token, decoding ones first."""
    rows: Rows
    lengths: torch.Tensor
    tables: torch.Tensor


@dataclass(frozen=True, slots=True)
class Adopted:
    """A step received from rank 0.

    `count`: decode rows. `padded`: rows of the CUDA graph that computes the step, 0 if none does. `samples`:
    rows to sample. `rows`: tokens of each chunk. `scored`: rows with prompt log-probabilities, per chunk.
    """

    count: int
    padded: int
    samples: int
    rows: list[int]
    mixed: Mixed | None
    scored: list[int]


class Inputs:
    """Builds step inputs. `vocab`: vocabulary size, which stands for top_k being off.

    `most_padded`: rows of the largest CUDA graph with prefill chunks. `tile_tokens`: of its attention.

    `shared`: whether other ranks need the inputs; `written` then holds them after each `write`, as int32
    arrays.
    """

    def __init__(
        self,
        max_batch_size: int,
        max_tokens: int,
        max_length: int,
        block_size: int,
        vocab: int,
        device: torch.device,
        shared: bool = False,
        most_padded: int = 0,
        tile_tokens: int = 1,
    ) -> None:
        self.shared = shared
        self.written: list[np.ndarray] = []
        self._tile_tokens = tile_tokens
        self._most, self._block_size, self._vocab = max_batch_size, block_size, vocab
        width = blocks_for(max_length, block_size)
        self._tables_at = HEADER + WORDS_PER_ROW * max_batch_size
        self._mixed_at = -(-(self._tables_at + max_batch_size * width) // 4) * 4
        size = self._mixed_at + mixed_inputs.most_words(max_tokens, max_batch_size, most_padded)
        self._device = torch.zeros(size + size % 2, dtype=torch.int32, device=device)
        self.most_words = size + 4 * max_batch_size + max_tokens * 4 + max_batch_size * max_length
        hosts = [
            torch.zeros(size, dtype=torch.int32, pin_memory=device.type == "cuda") for _ in range(BUFFERS)
        ]
        self._hosts = [(host, host.numpy()) for host in hosts]
        self._turn = 0
        self.front = self._views()
        self._numbers: dict[Sequence, int] = {}
        self._unused = list(range(max_batch_size, 0, -1))  # slot 0 is for padding rows
        self._tables = np.zeros((max_batch_size + 1, width), np.int32)
        self._known: list[tuple[list[int] | None, int]] = [(None, 0)] * (max_batch_size + 1)
        self._cuts = np.zeros((max_batch_size + 1, 4), np.float32)
        self._top_k = np.zeros(max_batch_size + 1, np.int32)

    def write(self, plan: Plan, sampled: list[Sequence], padded: int) -> Mixed | None:
        """Upload a step's input. Returns None for a pure decode step.

        `padded`: rows of the CUDA graph that computes the step, 0 if none does.
        """
        host, words = self._hosts[self._turn]
        self._turn = (self._turn + 1) % BUFFERS
        ahead = [0] * len(sampled)
        if plan.drafts:
            sampled, ahead = spread(sampled, plan.drafts)
        numbers = np.array([self._number(sequence) for sequence in sampled], np.int64)
        self._write_sampling(words, sampled, numbers, ahead)
        count = plan.decode_rows
        end = self._write_decode(
            words,
            plan,
            sampled[:count],
            numbers[:count],
            ahead[:count],
            count if plan.prefill else padded,
            plan.prefill if padded else [],
        )
        self._device[:end].copy_(host[:end], non_blocking=True)
        region = attended = np.zeros(0, np.int32)
        mixed = None
        if plan.prefill:
            rows = [chunk.length for chunk in plan.prefill]
            lengths = [chunk.start + chunk.length for chunk in plan.prefill]
            shape = Shape(count, padded, len(sampled), rows, lengths)
            region = words[self._mixed_at :]
            front = HEADER + 9 * self._most
            decode = [words[front + i * self._most : front + i * self._most + count] for i in (0, 1, 2, -1)]
            used = mixed_inputs.write(region, plan, shape, decode, self._block_size, self._tile_tokens)
            region = region[:used]
            if not padded:
                attended = mixed_inputs.attended_places(plan, self._block_size)
            mixed = self._mixed(host, shape, used, attended)
        if self.shared:
            self._describe(words[:end], region, plan, len(sampled), padded, attended)
        return mixed

    def _describe(
        self,
        words: np.ndarray,
        region: np.ndarray,
        plan: Plan,
        samples: int,
        padded: int,
        attended: np.ndarray,
    ) -> None:
        chunks = plan.prefill
        header = np.array([len(plan.decode), padded, samples], np.int32)
        rows = np.array([chunk.length for chunk in chunks], np.int32)
        lengths = np.array([chunk.start + chunk.length for chunk in chunks], np.int32)
        scored = np.array([scored_rows(chunk) for chunk in chunks], np.int32)
        self.written = [header, words, region, rows, lengths, scored, attended]

    def adopt(self, written: list[np.ndarray]) -> Adopted:
        """Upload the input in `written`, received from rank 0."""
        header, given, region, rows, lengths, scored, attended = written
        count, padded, samples = header.tolist()
        host, words = self._hosts[self._turn]
        self._turn = (self._turn + 1) % BUFFERS
        words[: len(given)] = given
        self._device[: len(given)].copy_(host[: len(given)], non_blocking=True)
        mixed = None
        if len(rows):
            shape = Shape(count, padded, samples, rows.tolist(), lengths.tolist())
            words[self._mixed_at : self._mixed_at + len(region)] = region
            mixed = self._mixed(host, shape, len(region), attended)
        return Adopted(count, padded, samples, rows.tolist(), mixed, scored.tolist())

    def _mixed(self, host: torch.Tensor, shape: Shape, used: int, attended: np.ndarray) -> Mixed:
        """Upload the region of steps with prefill chunks; returns views of it."""
        at = self._mixed_at
        self._device[at : at + used].copy_(host[at : at + used], non_blocking=True)
        # Cached positions of earlier chunks may exceed the buffer: rare, so they get a copy of their own.
        places = self._to_device(attended) if len(attended) else None
        return mixed_inputs.views(self._device[at:], shape, places)

    def padded(self, rows: int) -> Mixed:
        """Views of the inputs of a step with prefill chunks that is padded to `rows`, for capturing it."""
        return mixed_inputs.views(self._device[self._mixed_at :], Shape(0, rows, 0, [], []), None)

    def _number(self, sequence: Sequence) -> int:
        number = self._numbers.get(sequence)
        if number is not None:
            return number
        if not self._unused:
            for other in [other for other in self._numbers if not other.blocks]:  # finished or preempted
                self._unused.append(self._numbers.pop(other))
        number = self._numbers[sequence] = self._unused.pop()
        sampling = sequence.request.sampling
        temperature = 0.0
        if sampling.temperature > 0:
            temperature = min(max(sampling.temperature, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)
        self._cuts[number] = temperature, sampling.top_p, sampling.min_p, 0
        self._top_k[number] = sampling.top_k if 0 < sampling.top_k < self._vocab else self._vocab
        self._known[number] = (None, 0)
        return number

    def _write_sampling(
        self, words: np.ndarray, sampled: list[Sequence], numbers: np.ndarray, ahead: list[int]
    ) -> None:
        most, count = self._most, len(sampled)
        at = HEADER
        words[at : at + 2 * count].view(np.float64)[:] = [
            uniform(one.seed, one.generated + one.unread + more)
            if one.request.sampling.temperature > 0
            else 0.0
            for one, more in zip(sampled, ahead, strict=True)
        ]
        at += 2 * most
        words[at : at + 4 * count].view(np.float32)[:] = self._cuts[numbers].ravel()
        at += 4 * most
        words[at : at + count] = self._top_k[numbers]
        at += most
        words[at : at + count] = numbers

    def _write_decode(
        self,
        words: np.ndarray,
        plan: Plan,
        sequences: list[Sequence],
        numbers: np.ndarray,
        ahead: list[int],
        padded: int,
        chunks: list[Chunk],
    ) -> int:
        """Write the decode rows, and block tables of them and of `chunks`; returns the words used.

        `sequences`: that of each row; `ahead`: its draft tokens before the row.
        """
        most, count = self._most, len(sequences)
        longest = 1
        for sequence, number in zip(sequences, numbers.tolist(), strict=True):
            self._update_table(number, sequence.blocks)
            longest = max(longest, len(sequence.blocks))
        tables = [np.array(chunk.sequence.blocks) for chunk in chunks]
        longest = max([longest, *map(len, tables)])
        positions = np.array([sequence.computed for sequence in sequences], np.int64)
        tokens = [
            sequence.tokens[sequence.computed] if sequence.computed < len(sequence.tokens) else -1
            for sequence in sequences
        ]
        if plan.drafts:
            positions += np.array(ahead, np.int64)
            for row, (sequence, more) in enumerate(zip(sequences, ahead, strict=True)):
                if more:
                    tokens[row] = plan.drafts[sequence][more - 1]
        size = self._block_size
        slots = self._tables[numbers, positions // size] * size + positions % size
        at = HEADER + 8 * most
        # A padding row computes token 0 at position 0, writes to the null block and attends to nothing.
        columns = ((numbers, 0), (tokens, 0), (positions, 0), (slots, 0), (positions + 1, 0))
        for values, padding in columns:
            words[at : at + count] = values
            words[at + count : at + padded] = padding
            at += most
        words[0] = longest
        at = self._tables_at
        words[at : at + count * longest].reshape(count, longest)[:] = self._tables[numbers, :longest]
        at += count * longest
        for table in tables:
            words[at : at + len(table)] = table
            at += longest
        return at if count or tables else at + longest

    def _update_table(self, number: int, blocks: list[int]) -> None:
        """Copy new blocks to the table. A block list only grows; after preemption it is a new list."""
        list_, known = self._known[number]
        if list_ is not blocks:
            known = 0
        if known < len(blocks):
            self._tables[number, known : len(blocks)] = blocks[known:]
            self._known[number] = (blocks, len(blocks))

    def _to_device(self, values: np.ndarray) -> torch.Tensor:
        device = self._device.device
        host = torch.from_numpy(values)
        host = host.pin_memory() if device.type == "cuda" else host
        return host.to(device, non_blocking=True)

    def _views(self) -> Front:
        most, at = self._most, HEADER

        def take(count: int) -> torch.Tensor:
            nonlocal at
            at += count
            return self._device[at - count : at]

        uniform = take(2 * most).view(torch.float64)
        cuts = take(4 * most).view(torch.float32).view(most, 4)
        top_k, sampled = take(most), take(most)
        numbers, tokens, positions, slots, lengths = (take(most) for _ in range(5))
        return Front(
            self._device[:1],
            uniform,
            cuts,
            top_k,
            sampled,
            Rows(tokens, positions, slots, numbers),
            lengths,
            self._device[self._tables_at :],
        )


def scored_rows(chunk: Chunk) -> int:
    """Number of rows of `chunk` that need prompt log-probabilities."""
    if chunk.sequence.prompt_logprobs is None:
        return 0
    end = min(chunk.start + chunk.length + 1, chunk.sequence.prompt_tokens)
    return max(0, end - chunk.start - 1)
