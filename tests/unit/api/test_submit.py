"""Submission: one sequence for each choice, counted once it was admitted, and undone when it was not."""

import asyncio
import time
from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.api.submit import GenerationSpec, start_run
from trtllm_openai.errors import Overloaded, PoolError
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.runners import NOBODY, Generation, Tenant
from trtllm_openai.runners.tenants import KeyLimits
from trtllm_openai.text.tokenizer import Tokenizer


def spec(prompts: list[list[int]], n: int = 1, seed: int | None = None, **fields: Any) -> GenerationSpec:
    sampling = [SamplingParams(max_tokens=4, seed=seed) for _ in prompts]
    return GenerationSpec(prompts=prompts, sampling=sampling, started=time.perf_counter(), n=n, **fields)


def submitted(served: Served, what: GenerationSpec) -> list[GenerationRequest]:
    async def main() -> None:
        run = start_run(served.context, served.context.loaded(), what)
        assert served.context.runs == {run}
        assert [choice.index for choice in run.choices] == list(range(len(served.pool.requests)))
        assert [choice.first for choice in run.choices] == [i % what.n == 0 for i in range(len(run.choices))]
        run.close()
        assert served.context.runs == set()

    served.pool.hold = True
    asyncio.run(main())
    return served.pool.requests


def test_the_runner_is_told_whose_a_request_is(demo_tokenizer: Tokenizer) -> None:
    own = Tenant("alice", "alice", KeyLimits(priority=0.2))
    for tenant, expected in (
        (own, ("alice", 0.2)),
        (Tenant("bob", "bob"), ("bob", 0.5)),
        (NOBODY, ("", 0.5)),
    ):
        (request,) = submitted(Served(demo_tokenizer), spec([[1]], tenant=tenant, priority=0.9))
        assert (request.key, request.key_priority) == expected
        assert request.priority == 0.9, "its order within the key"


def test_choices_of_a_prompt_have_seeds_of_their_own(demo_tokenizer: Tokenizer) -> None:
    requests = submitted(Served(demo_tokenizer), spec([[1], [2, 3]], 2, 7, priority=0.5, cache_salt="s"))
    assert [request.prompt_token_ids for request in requests] == [[1], [1], [2, 3], [2, 3]]
    assert [request.sampling.seed for request in requests] == [7, 8, 7, 8]
    assert len({request.request_id for request in requests}) == 4
    assert {(request.priority, request.cache_salt) for request in requests} == {(0.5, "s")}


def test_without_a_seed_there_is_none(demo_tokenizer: Tokenizer) -> None:
    requests = submitted(Served(demo_tokenizer), spec([[1]], 2))
    assert [request.sampling.seed for request in requests] == [None, None]


def test_prompts_count_once_and_prefix_look_ups_for_each_choice(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    submitted(served, spec([[1, 2, 3]], 2))
    assert served.context.metrics.prompt_tokens.value == 3
    assert served.context.metrics.prefix_queries.value == 6


def test_a_closed_run_aborts_what_is_live(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    requests = submitted(served, spec([[1]], 2))
    assert sorted(served.pool.aborted) == sorted(request.request_id for request in requests)
    assert served.context.admission.waiting == 0


def test_a_pool_that_refuses_leaves_nothing_waiting(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)

    def submit(_: list[GenerationRequest], session: str) -> Generation:
        raise PoolError("no runner", loading=True)

    served.pool.submit = submit  # type: ignore[method-assign, assignment]
    with pytest.raises(PoolError):
        start_run(served.context, served.context.loaded(), spec([[1]]))
    assert served.context.admission.waiting == 0
    assert served.context.metrics.prompt_tokens.value == 0
    assert served.context.runs == set()


def test_a_full_queue_is_told_before_the_pool_hears_of_it(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, limits={"max_waiting_requests": 1})
    served.pool.hold = True

    async def main() -> None:
        first = start_run(served.context, served.context.loaded(), spec([[1]]))
        with pytest.raises(Overloaded) as caught:
            start_run(served.context, served.context.loaded(), spec([[1]]))
        assert caught.value.code == "queue_full"
        assert len(served.pool.requests) == 1
        first.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
    ],
)
def test_a_model_id_chooses_the_adapter(demo_tokenizer: Tokenizer, path: str, body: dict[str, Any]) -> None:
    """The request, the answer's `model`, the log record and the metric have it; the base model has none."""
    served = Served(
        demo_tokenizer,
        engine="tensorrt_llm",
        served_model_name="base",
        tensorrt_llm={"lora_adapters": {"sql": "/sql"}},
    )
    for model in ("sql", "base", None):
        answer = served.post(path, {**body, "model": model}).json()
        assert answer["model"] == (model or "base")
    assert [request.adapter for request in served.pool.requests] == ["sql", None, None]
    counted = served.get("/metrics").text
    assert 'trtllm_openai_model_requests_total{model_name="sql"} 1.0' in counted
    assert 'trtllm_openai_model_requests_total{model_name="base"} 2.0' in counted
    assert served.post(path, {**body, "model": "SQL"}).status_code == 404


def test_sequences_of_an_adapter_are_counted_by_who_has_begun(demo_tokenizer: Tokenizer) -> None:
    settings = {"lora_adapters": {"sql": "/adapters/sql", "idle": "/adapters/idle"}}
    served = Served(demo_tokenizer, engine="tensorrt_llm", served_model_name="base", tensorrt_llm=settings)
    served.pool.hold = True

    def counts() -> dict[str, tuple[float, float]]:
        snapshot = served.context.metrics.snapshot()
        running, waiting = snapshot["adapter_sequences_running"], snapshot["adapter_sequences_waiting"]
        return {one.labels[0]: (one.value, other.value) for one, other in zip(running, waiting, strict=True)}

    async def main() -> None:
        base = start_run(served.context, served.context.loaded(), spec([[1]]))
        run = start_run(served.context, served.context.loaded("sql"), spec([[1, 2]], n=3))
        assert counts() == {"sql": (0, 3), "idle": (0, 0)}
        run.choices[0].begun = True
        assert counts() == {"sql": (1, 2), "idle": (0, 0)}
        run.close()
        base.close()
        assert counts() == {"sql": (0, 0), "idle": (0, 0)}

    asyncio.run(main())
