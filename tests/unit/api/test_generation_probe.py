"""A health check that generates: what it sends, how many at a time, and what it says when nothing comes."""

import asyncio

import httpx
import pytest

from tests.unit.api.served import Served
from trtllm_openai.api import generation_probe
from trtllm_openai.generation import StepOutput
from trtllm_openai.runners import Generation
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/health_generate"


@pytest.fixture
def served(demo_tokenizer: Tokenizer) -> Served:
    return Served(demo_tokenizer)


def probes(served: Served, count: int = 1) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(served.request("GET", PATH)) for _ in range(count)]


async def submitted(served: Served) -> Generation:
    """The generation of the probe that is under way, of a pool that holds it."""
    probe = served.app.state.generation_probe
    while not probe.live:
        await asyncio.sleep(0)
    generation = probe._generation
    assert isinstance(generation, Generation)
    return generation


def answer(generation: Generation, output: StepOutput) -> None:
    if generation.put(output):
        generation.listener()


def test_one_token_goes_first_and_is_in_no_metric(served: Served) -> None:
    before = served.get("/metrics").text
    response = served.get(PATH)
    assert (response.status_code, response.json()["status"]) == (200, "generated")
    (request,) = served.pool.requests
    assert (request.sampling.max_tokens, request.priority, len(request.prompt_token_ids)) == (1, 1.0, 1)

    def tokens(text: str) -> list[str]:
        return [line for line in text.splitlines() if "tokens_total" in line or "sequences_total" in line]

    assert tokens(served.get("/metrics").text) == tokens(before)


def test_a_success_holds_for_a_second(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        assert served.get(PATH).status_code == 200
    assert len(served.pool.requests) == 1
    monkeypatch.setattr(generation_probe, "HOLDS_S", 0.0)
    assert served.get(PATH).status_code == 200
    assert len(served.pool.requests) == 2


def test_probes_that_come_together_share_one_token(served: Served) -> None:
    """One that is given up does not end it for the others; no request counts it as a leak."""

    async def main() -> None:
        served.pool.hold = True
        given_up, *others = probes(served, 20)
        generation = await submitted(served)
        given_up.cancel()
        await asyncio.sleep(0)
        assert served.context.runs == {served.app.state.generation_probe}
        (request,) = served.pool.requests
        answer(generation, StepOutput(request.request_id, [], queued_ms=1.0))  # it has begun
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in others)
        answer(generation, StepOutput(request.request_id, [5], "length"))
        assert [(await task).status_code for task in others] == [200] * 19
        assert served.context.runs == set()
        assert (served.pool.aborted, len(served.pool.requests)) == ([], 1)

    asyncio.run(main())


def test_without_a_token_it_is_503_and_tried_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        served.pool.hold = True
        (failing,) = probes(served)
        generation = await submitted(served)
        answer(generation, StepOutput("1", [], "error", error="out of memory"))
        response = await failing
        assert (response.status_code, response.json()["error"]["message"]) == (
            503,
            "No token was generated: out of memory",
        )
        monkeypatch.setattr(generation_probe, "TIMEOUT_S", 0.01)
        late = await served.request("GET", PATH)
        assert (late.status_code, "within 0.01 s" in late.json()["error"]["message"]) == (503, True)
        assert served.pool.aborted == [served.pool.requests[1].request_id]
        served.pool.hold = False
        assert (await served.request("GET", PATH)).status_code == 200

    asyncio.run(main())


def test_a_server_that_stops_ends_it(served: Served) -> None:
    async def main() -> None:
        served.pool.hold = True
        tasks = probes(served, 2)
        await submitted(served)
        for run in list(served.context.runs):
            run.interrupt(RuntimeError())
        assert [(await task).status_code for task in tasks] == [503, 503]
        assert served.context.runs == set()
        assert len(served.pool.aborted) == 1

    asyncio.run(main())
