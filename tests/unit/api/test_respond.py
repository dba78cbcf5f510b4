"""A started run as a response: JSON, events, and an ordinary error where the engine refuses a guide."""

import asyncio

import pytest

from tests.unit.api.served import Served
from trtllm_openai.generation import GenerationRequest, StepOutput
from trtllm_openai.text.tokenizer import Tokenizer

GUIDED = {"prompt": "x", "guided_json": {"type": "object"}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_guide_that_the_engine_refuses_is_no_stream(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer)

    def refuse(request: GenerationRequest) -> list[StepOutput]:
        fields = {"error": "it is too hard", "error_code": "bad_grammar", "error_param": "guided_json"}
        return [StepOutput(request.request_id, [], "error", **fields)]  # type: ignore[arg-type]

    served.pool.outputs = refuse  # type: ignore[method-assign]
    response = served.post("/v1/completions", {**GUIDED, "stream": stream})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["param"] == "guided_json"
    assert served.context.runs == set()


def test_a_guide_that_it_takes_is_streamed(demo_tokenizer: Tokenizer) -> None:
    response = Served(demo_tokenizer, "{}").post("/v1/completions", {**GUIDED, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_ignored_fields_are_named_and_the_run_is_closed(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer)
    response = served.post("/v1/completions", {"prompt": "x", "unheard_of": 1, "stream": stream})
    assert response.headers["x-ignored-params"] == "unheard_of"
    assert served.context.runs == set()
    assert served.context.metrics.streams.value == 0


def test_timings_come_with_a_whole_answer_where_they_are_on(demo_tokenizer: Tokenizer) -> None:
    for on in (False, True):
        served = Served(demo_tokenizer, server_timing=on)
        response = served.post("/v1/completions", {"prompt": "x"})
        assert ("server-timing" in response.headers) is on
        assert ("timings" in response.json()["usage"]) is on


def test_a_client_that_leaves_ends_its_sequences(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.hold = True

    async def main() -> None:
        request = asyncio.create_task(served.request("POST", "/v1/completions", json={"prompt": "x"}))
        while not served.pool.requests:
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    asyncio.run(main())
    assert served.pool.aborted == [served.pool.requests[0].request_id]
    assert served.context.runs == set()
