"""Requests to engines, step outputs and facts about a loaded engine, as msgspec structs."""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated, Literal

import msgspec

from trtllm_openai.generation.sampling import Parameter, SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]
DEFAULT_PRIORITY = 0.5
"""The priority of a request that does not say."""
GuideKind = Literal["json_object", "json_schema", "regex", "grammar", "structural_tag"]


class Thinking(msgspec.Struct, frozen=True, omit_defaults=True):
    """Thinking between two tags, which may precede the text that a guide constrains and is free itself.

    `opened`: the prompt ends inside of it; else it may begin, or not. `budget`: tokens after which its end is
    forced, as the tokens `end_ids`; None is no bound. `within`: the guide's own text allows thinking, which
    may come several times, and only the budget follows from this. `answer`, `answer_end`: tags that may stand
    around the constrained text after thinking.
    """

    begin: str
    end: str
    end_ids: tuple[int, ...]
    opened: bool = False
    budget: int | None = None
    within: bool = False
    answer: str = ""
    answer_end: str = ""


class Guide(msgspec.Struct, frozen=True, omit_defaults=True):
    """A constraint on the generated text: any JSON object, or `text` as a JSON schema, a regular expression,
    EBNF (GBNF's dialect, start rule `root`) or XGrammar's structural tag. `param` is the request parameter it
    came from; `origins` are the JSON paths in `text` of what came from another one, each with that one.

    `thinking`: what may precede the constrained text. `special`: ids of special tokens by their text, where
    that is a mark in a structural tag or a tag of thinking. `endless`: the text may go on at any length, so
    that `min_tokens` and `ignore_eos` hold beside it. `optional`: one that cannot be used is left out.
    """

    kind: GuideKind
    text: str = ""
    param: str = ""
    origins: tuple[tuple[str, str], ...] = ()
    thinking: Thinking | None = None
    special: dict[str, int] = {}
    endless: bool = False
    optional: bool = False

    @property
    def called(self) -> str:
        """How a sentence to the client names it."""
        return f"'{self.param}'" if self.param else f"This {self.kind.replace('_', ' ')}"

    def param_at(self, path: str) -> str:
        """The request parameter that a JSON path of `text`, such as `.properties.a`, came from."""
        for inside, param in self.origins:
            if path.startswith(inside) and path[len(inside) : len(inside) + 1] in ("", ".", "["):
                return param + path[len(inside) :]
        return self.param + path


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to generate. `request_id` is unique among all live requests of a pool.

    `allotted_ms`: milliseconds after which the engine ends it by itself. `adapter`: name of a LoRA adapter.
    `key`: whose it is, for fair queueing in front of the engine; empty where there are no API keys.
    `key_priority`: that key's priority among keys, and the highest that its requests have in the engine.
    `waited_ms`: how long it waited before the engine got it. `below_share`: its key has much less than its
    share of the engine (`engine_host.fair_queue`), so that its prompt may be computed before what others ask.
    `prediction_token_ids`: a text that the client expects, for an engine with `Capabilities.prediction`; only
    the speed depends on it. The fields with a `Parameter` belong to the parameter table, like those of
    `SamplingParams`.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    priority: Annotated[
        float | None,
        Parameter("Higher is scheduled first; without one, 0.5.", 0, 1, capability="priority"),
    ] = None
    allotted_ms: int | None = None
    guide: Guide | None = None
    cache_salt: Annotated[
        str | None,
        Parameter("KV blocks are shared only among requests with the same salt.", capability="cache_salt"),
    ] = None
    adapter: str | None = None
    key: str = ""
    key_priority: float = DEFAULT_PRIORITY
    waited_ms: float = 0.0
    below_share: bool = False
    prediction_token_ids: list[int] = []


QUEUE_TIMEOUT = "queue_timeout"
"""The code of a request with which no engine began in time."""
QUEUE_FULL = "queue_full"
"""The `error_code` of a sequence that the engine's own queue had no place for."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural log) of the chosen token and of the `top` most likely ones, best first.

    Taken from the model's distribution after penalties and logit bias, before temperature and cuts. `rank`:
    that of the chosen token, from 1; for tokens of a prompt, where the engine gives it.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    rank: int | None = None


class StepOutput(msgspec.Struct, array_like=True):
    """The tokens that one engine step added to one sequence.

    `token_ids` holds new tokens only, in order; an EOS or stop token that ended the sequence is included.
    `stop_token_id` is that token when a stop token or EOS ended it. `logprobs` parallels `token_ids` when
    requested. `cached_tokens`: prompt tokens taken from the prefix cache, set on the first delta.
    `prompt_logprobs`, if requested, come with the first delta: an item for each prompt token, None for the
    first, which nothing predicts; so does `queued_ms`, the time before its first step, if known.
    `drafted`: draft tokens that the step verified for it (speculative decoding), of which `accepted` are in
    `token_ids`.
    An output without tokens and finish_reason says that the engine has begun: it is sent, if at all, for a
    sequence whose first token takes longer than a step.
    `error` is a sentence for the client, with finish_reason "error"; `error_code` and `error_param` are set
    when the request itself is at fault; the code `QUEUE_FULL` means that the engine had no place for it.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    cached_tokens: int = 0
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    queued_ms: float | None = None
    drafted: int = 0
    accepted: int = 0

    def add(self, later: StepOutput) -> None:
        """Append the tokens of a later output of the sequence, and take over how it ended."""
        self.token_ids += later.token_ids
        if later.logprobs is not None:
            self.logprobs = (self.logprobs or []) + later.logprobs
        self.finish_reason, self.stop_token_id = later.finish_reason, later.stop_token_id


class Capabilities(msgspec.Struct, frozen=True):
    """The optional features of an engine; the API refuses parameters that need a missing one.

    `max_logprobs`: alternatives beside the chosen token's log-probability; 0 is the chosen token alone, -1 no
    log-probabilities at all. `max_prompt_logprobs` is the same for prompts. Without `sampling` the engine
    always takes the likeliest token. `thinking_budget`: a guide's thinking can have a budget. `channels`: a
    structural tag may describe any number of messages before the last (gpt-oss). `prediction`: a predicted
    text makes it faster.
    """

    max_logprobs: int = -1
    max_prompt_logprobs: int = -1
    seed: bool = False
    logit_bias: bool = False
    min_p: bool = False
    penalties: bool = False
    min_tokens: bool = False
    priority: bool = False
    cache_salt: bool = False
    allowed_token_ids: bool = False
    bad_words: bool = False
    sampling: bool = True
    guides: tuple[GuideKind, ...] = ()
    thinking_budget: bool = False
    channels: bool = False
    prediction: bool = False


class EngineInfo(msgspec.Struct, frozen=True):
    """Facts of a loaded engine.

    `max_seq_len` bounds prompt + generated tokens of one sequence; `max_batch_size` the sequences that run
    at once; `kv_blocks` x `kv_block_size` tokens fit the KV cache, and `max_num_tokens` a step (0: the engine
    does not say). `lookahead`: sequences that it wants queued beyond its batch, as it begins them by itself
    between two `step`s.
    """

    engine: str
    architecture: str
    dtype: str
    device: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_seq_len: int
    max_batch_size: int
    capabilities: Capabilities
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    kv_blocks: int = 0
    kv_block_size: int = 0
    max_num_tokens: int = 0
    lookahead: int = 0


GUIDE_COMPILE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""CPU seconds: upper bounds of `EngineStats.guide_compile_counts`, which has one more."""


STEP_TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Tokens: upper bounds of `EngineStats.step_token_counts`, which has one more. They are vLLM's."""


class EngineStats(msgspec.Struct):
    """Gauges (sequences, KV blocks) and totals since the engine started (the rest).

    `deferred`: those of `waiting` that wait for something else than room, such as a guide that is compiled.
    `drafts`: of speculative decoding, verified, with `draft_tokens` in all; `accepted_draft_tokens`: by their
    position in the draft, from "0". `guides_refused`: by error code. `guides_ended`: guides that failed while
    the text was made, by reason. `undecodable_messages`: of HTTP processes, counted in front of the engine.
    """

    waiting: int = 0
    running: int = 0
    deferred: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    kv_blocks_reused: int = 0
    guides_compiled: int = 0
    guide_cache_hits: int = 0
    guide_cache_misses: int = 0
    guides_refused: dict[str, int] = {}
    guides_ended: dict[str, int] = {}
    guide_compile_counts: list[int] = msgspec.field(default_factory=lambda: [0] * 13)
    guide_compile_seconds: float = 0.0
    guide_mask_seconds: float = 0.0
    adapters_sent_again: int = 0
    preemptions: int = 0
    step_token_counts: list[int] = msgspec.field(default_factory=lambda: [0] * 14)
    step_tokens: int = 0

    def count_step(self, tokens: int) -> None:
        """Count a step that computed `tokens` tokens: of prompts and generated ones."""
        self.step_token_counts[bisect_left(STEP_TOKEN_BOUNDS, tokens)] += 1
        self.step_tokens += tokens

    undecodable_messages: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: dict[str, int] = {}

    def add(self, other: EngineStats) -> None:
        """Add the statistics of another engine."""
        for name in self.__struct_fields__:
            mine, its = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                setattr(self, name, {key: mine.get(key, 0) + its.get(key, 0) for key in {**mine, **its}})
            elif isinstance(mine, list):
                setattr(self, name, [a + b for a, b in zip(mine, its, strict=True)])
            else:
                setattr(self, name, mine + its)
