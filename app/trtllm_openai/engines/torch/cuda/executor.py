"""Computes steps on an NVIDIA GPU. Only `CudaStep.collect` synchronizes with the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from trtllm_openai.engines.torch.cuda.graphs import MOST_PADDED, Graphs, ladder, mixed_ladder
from trtllm_openai.engines.torch.cuda.inputs import BUFFERS, Inputs
from trtllm_openai.engines.torch.cuda.kernels.attention import PagedDecode
from trtllm_openai.engines.torch.cuda.kernels.mixed_attention import MixedAttention
from trtllm_openai.engines.torch.cuda.kernels.sampling import Sampler
from trtllm_openai.engines.torch.cuda.mixed_inputs import Mixed, Tiles
from trtllm_openai.engines.torch.cuda.model import CudaModel
from trtllm_openai.engines.torch.cuda.peers import Peers
from trtllm_openai.engines.torch.cuda.prefill import attend_chunks
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.plan import Limits, Plan
from trtllm_openai.engines.torch.plan_channel import PlanChannel
from trtllm_openai.engines.torch.sampler import (
    SCORED_AT_ONCE,
    Sampled,
    apply_rules,
    apply_rules_to_drafts,
    count_token,
    prompt_logprobs,
)
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import NO_DRAFTS, Drafts, spread
from trtllm_openai.engines.torch.token_masks import constrain, constrain_drafts
from trtllm_openai.generation import TokenLogprobs

MOST_PAIRS = 2**24
"""Query-key pairs of the prompts of a step that replays a graph: beyond it FlashAttention, which no graph can
capture for varying lengths, saves more than launches cost."""
MOST_CONTEXT = 2**13
"""Context of a decoding sequence in such a step, since its attention is not split over programs."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities requested by some rows, in asynchronous copies to pinned host memory."""

    rows: list[int]
    counts: list[int]
    chosen: torch.Tensor
    top: torch.Tensor
    top_ids: torch.Tensor


@dataclass(frozen=True, slots=True)
class CudaStep:
    """A launched step. `tokens` (pinned memory) are valid once the event `done` completes."""

    sampled: list[Sequence]
    tokens: torch.Tensor
    logprobs: Logprobs | None
    done: torch.cuda.Event
    fault: torch.Tensor | None = None
    """Pinned memory: 1 + the rank that timed out, or 0; valid once `done` completes."""
    drafts: Drafts = field(default_factory=dict)

    def collect(self) -> list[Sampled]:
        self.done.synchronize()
        if self.fault is not None and (late := int(self.fault)):
            raise RuntimeError(f"rank {late - 1} did not respond during a step: all ranks exit")
        tokens: list[int] = self.tokens.tolist()
        found: dict[int, TokenLogprobs] = {}
        if (wanted := self.logprobs) is not None:
            columns = (part.tolist() for part in (wanted.chosen, wanted.top, wanted.top_ids))
            for row, count, chosen, top, ids in zip(wanted.rows, wanted.counts, *columns, strict=True):
                best = list(zip(ids[:count], top[:count], strict=True))
                found[row] = TokenLogprobs(tokens[row], chosen, best)
        return [Sampled(token, found.get(row)) for row, token in enumerate(tokens)]


class CudaExecutor:
    """Implements `engines.torch.executor.Executor`."""

    overlaps = True

    def __init__(
        self,
        config: ModelConfig,
        model: CudaModel,
        limits: Limits,
        max_length: int,
        device: torch.device,
        peers: Peers | None = None,
    ) -> None:
        """`config`: of this rank's shard. `peers`: GPU-to-GPU communication, if there are several ranks."""
        self._peers = peers
        self._limits = limits
        most = limits.sampled_rows
        self._model, self._heads = model, config.heads
        self._scorer = _Scorer(model)
        self._width = config.heads * config.head_dim
        self._tiled = MixedAttention(config.heads, config.kv_heads, config.head_dim, device)
        self._most_padded = min(MOST_PADDED, limits.max_num_tokens)
        self._inputs = Inputs(
            most,
            limits.max_num_tokens,
            max_length,
            limits.block_size,
            config.vocab_size,
            device,
            shared=peers is not None and peers.ranks.rank == 0,
            most_padded=self._most_padded,
            tile_tokens=self._tiled.tile_tokens,
        )
        self._paged = PagedDecode(config.heads, config.kv_heads, config.head_dim, most, device)
        self._sampler = Sampler(config.vocab_size, most, device)
        self._last_tokens = torch.zeros(most + 1, dtype=torch.int32, device=device)
        self._tokens = torch.zeros(most, dtype=torch.int32, device=device)
        self._read = [torch.zeros(most, dtype=torch.int32, pin_memory=True) for _ in range(BUFFERS)]
        self._faults = [torch.zeros(1, dtype=torch.int32, pin_memory=True) for _ in range(BUFFERS)]
        self._turn = 0
        self._channel: PlanChannel | None = None
        self._cache: KVCache | None = None
        self._graphs: Graphs | None = None
        self._mixed_graphs: Graphs | None = None

    def use(self, cache: KVCache) -> None:
        """Set the KV cache."""
        self._cache = cache

    def capture(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Capture CUDA graphs. Call `use` first: they hold the cache's addresses.

        `progress` is called with the share that is done (0..1).
        """
        self._mixed_graphs = Graphs(
            lambda rows: self._mixed(self._inputs.padded(rows), 0),
            mixed_ladder(self._most_padded),
            progress=lambda share: progress(share / 2),
        )
        self._graphs = Graphs(
            self._decode,
            ladder(self._limits.sampled_rows),
            beside=self._mixed_graphs,
            progress=lambda share: progress(0.5 + share / 2),
        )

    def close(self) -> None:
        """Destroy the graphs: NCCL would wait for those that hold its communicator before destroying that."""
        if self._graphs is not None:
            torch.cuda.synchronize()
            self._graphs = self._mixed_graphs = None

    def share(self, fd: int) -> PlanChannel:
        """Send or receive steps through the shared memory `fd` from now on."""
        assert self._peers is not None
        ranks = self._peers.ranks
        self._channel = PlanChannel(fd, self._inputs.most_words, ranks.rank, ranks.size)
        return self._channel

    def follow(self) -> None:
        """Wait for the next step from rank 0 and launch it (other ranks)."""
        assert self._channel is not None
        step = self._inputs.adopt(self._channel.receive())
        if step.mixed is None:
            if self._graphs:
                self._graphs.replay(step.padded)
            else:
                self._decode(step.count)
            return
        hidden = self._hidden(step.mixed, step.count, step.padded)
        first_row = step.count
        for length, scored in zip(step.rows, step.scored, strict=True):
            for start in range(0, scored, SCORED_AT_ONCE):
                rows = torch.arange(
                    first_row + start,
                    first_row + min(start + SCORED_AT_ONCE, scored),
                    device=hidden.device,
                )
                self._model.scores(hidden, rows)
            first_row += length
        if step.samples:
            self._model.logits(hidden, step.mixed.sample_rows)

    def launch(self, plan: Plan) -> CudaStep:
        ends = [chunk.sequence for chunk in plan.prefill if chunk.last]
        sampled = plan.decode + ends
        count = plan.decode_rows
        size = self._graph_rows(plan)
        mixed = self._inputs.write(plan, sampled, size)
        if self._channel is not None:
            self._channel.send(self._inputs.written)
        if mixed is None:
            logits = self._graphs.replay(size)[:count] if self._graphs else self._decode(count)
        else:
            hidden = self._hidden(mixed, count, size)
            self._score_prompts(plan, hidden, count)
            if not sampled:
                return self._under_way([], None)
            logits = self._model.logits(hidden, mixed.sample_rows)
        if self._peers is not None and self._peers.ranks.rank:  # followers have no logits
            return self._under_way(sampled, None)
        return self._choose(logits, sampled, plan.drafts)

    def _graph_rows(self, plan: Plan) -> int:
        """Return the rows of the CUDA graph that computes the step, 0 if none does."""
        count, chunks = plan.decode_rows, plan.prefill
        if not chunks:
            return self._graphs.size(count) if self._graphs else 0
        if self._mixed_graphs is None or count + len(chunks) > self._limits.sampled_rows:
            return 0
        if max((sequence.computed for sequence in plan.decode), default=0) >= MOST_CONTEXT:
            return 0
        if sum(chunk.length * (chunk.start + chunk.length // 2) for chunk in chunks) > MOST_PAIRS:
            return 0
        return self._mixed_graphs.size(count + sum(chunk.length for chunk in chunks))

    def _hidden(self, mixed: Mixed, count: int, padded: int) -> torch.Tensor:
        """Compute a step with prefill chunks, by the graph of `padded` rows unless that is 0."""
        if padded and self._mixed_graphs:
            return self._mixed_graphs.replay(padded)
        return self._mixed(mixed, count)

    def _decode(self, count: int) -> torch.Tensor:
        """Return the logits of a decode step of `count` rows."""
        return self._model.logits(self._compute(count))

    def _compute(self, count: int) -> torch.Tensor:
        front = self._inputs.front
        rows = type(front.rows)(
            front.rows.tokens[:count],
            front.rows.positions[:count],
            front.rows.slots[:count],
            front.rows.sequences[:count],
        )

        def attend(qkv: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            out = torch.empty(count, self._width, dtype=qkv.dtype, device=qkv.device)
            self._paged(qkv, kv, front.tables, front.table_stride, front.lengths, out)
            return out

        assert self._cache is not None
        return self._model(rows, self._last_tokens, self._cache, attend)

    def _mixed(self, mixed: Mixed, count: int) -> torch.Tensor:
        """Compute a step of `count` decode rows followed by prefill chunks; returns the hidden states."""
        front, attention = self._inputs.front, mixed.attention

        def attend(qkv: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            out = torch.empty(len(qkv), self._width, dtype=qkv.dtype, device=qkv.device)
            if isinstance(attention, Tiles):
                self._tiled(qkv, kv, front.tables, front.table_stride, attention.list, attention.count, out)
                return out
            if count:
                self._paged(qkv, kv, front.tables, front.table_stride, front.lengths, out[:count])
            out[count:] = attend_chunks(qkv[count:], kv, attention, self._heads).flatten(1)
            return out

        assert self._cache is not None
        return self._model(mixed.rows, self._last_tokens, self._cache, attend)

    def _score_prompts(self, plan: Plan, hidden: torch.Tensor, first_row: int) -> None:
        for chunk in plan.prefill:
            if (scores := chunk.sequence.prompt_logprobs) is not None:
                scores += prompt_logprobs(self._scorer, hidden, chunk, first_row)
            first_row += chunk.length

    def _choose(self, logits: torch.Tensor, sampled: list[Sequence], drafts: Drafts) -> CudaStep:
        ruled = [row for row, sequence in enumerate(sampled) if sequence.rules is not None]
        if ruled or any(sequence.matcher is not None for sequence in sampled):
            logits = logits.float()
            if drafts:
                apply_rules_to_drafts(logits, sampled, drafts)
                constrain_drafts(logits, sampled, drafts)
            else:
                for row in ruled:
                    apply_rules(logits[row], sampled[row], sampled[row].generated + sampled[row].unread)
                constrain(logits, sampled)
        rows = spread(sampled, drafts)[0] if drafts else sampled
        tokens, front = self._tokens[: len(rows)], self._inputs.front
        self._sampler(
            logits,
            front.cuts,
            front.top_k,
            front.uniform,
            front.sampled,
            self._last_tokens,
            tokens,
        )
        for row in ruled if not drafts else ():
            count_token(sampled[row], tokens[row : row + 1])
        return self._under_way(sampled, self._logprobs(logits, rows, tokens), drafts, len(rows))

    def _logprobs(
        self, logits: torch.Tensor, sampled: list[Sequence], tokens: torch.Tensor
    ) -> Logprobs | None:
        counts = {
            row: sequence.request.sampling.logprobs
            for row, sequence in enumerate(sampled)
            if sequence.request.sampling.logprobs is not None
        }
        if not counts:
            return None
        rows = list(counts)
        index = torch.tensor(rows, pin_memory=True).to(logits.device, non_blocking=True)
        values = logits.index_select(0, index).float().log_softmax(-1)
        chosen = values.gather(1, tokens.index_select(0, index).long().clamp(min=0).unsqueeze(1)).squeeze(1)
        top, top_ids = values.topk(max(1, *counts.values()))
        return Logprobs(
            rows, [counts[row] or 0 for row in rows], _to_host(chosen), _to_host(top), _to_host(top_ids)
        )

    def _under_way(
        self,
        sampled: list[Sequence],
        logprobs: Logprobs | None,
        drafts: Drafts = NO_DRAFTS,
        rows: int | None = None,
    ) -> CudaStep:
        """`rows`: those that sampled, if not one for each sequence."""
        rows = len(sampled) if rows is None else rows
        read, fault = self._read[self._turn][:rows], None
        if self._peers is not None:
            fault = self._faults[self._turn].copy_(self._peers.fault, non_blocking=True)
        self._turn = (self._turn + 1) % BUFFERS
        read.copy_(self._tokens[:rows], non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return CudaStep(sampled, read, logprobs, done, fault, drafts)


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Adapter for prompt log-probabilities, which may compute logits any number of times per step."""

    model: CudaModel

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor:
        return self.model.scores(x, sample_rows)


def _to_host(values: torch.Tensor) -> torch.Tensor:
    """Start an asynchronous copy to pinned memory."""
    out = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return out.copy_(values, non_blocking=True)
