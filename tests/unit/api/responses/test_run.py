"""A run becomes a response object, and its errors have the client's names."""

import asyncio
import json

import pytest

from tests.unit.api.served import Served
from trtllm_openai.generation import GenerationRequest, StepOutput
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/responses"


class Refused(Served):
    """Its engine begins each sequence, and then fails it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        begun = tokenizer.encode("Hel", add_special_tokens=False)

        def outputs(request: GenerationRequest) -> list[StepOutput]:
            error = "response_format asks for what cannot be."
            end = StepOutput(request.request_id, [], "error", error=error)
            end.error_code, end.error_param = "invalid_value", "response_format"
            return [StepOutput(request.request_id, begun), end]

        self.pool.outputs = outputs  # type: ignore[method-assign]


def test_an_error_after_the_beginning(demo_tokenizer: Tokenizer) -> None:
    served = Refused(demo_tokenizer)
    whole = served.post(PATH, {"input": "Hi"})
    assert (whole.status_code, whole.json()["error"]["param"]) == (400, "text.format")
    lines = served.post(PATH, {"input": "Hi", "stream": True}).text.splitlines()
    last = json.loads([line for line in lines if line.startswith("data: ")][-1][6:])
    assert last.get("error", last)["message"] == "text.format asks for what cannot be."


def test_a_response_that_fails_in_the_background(demo_tokenizer: Tokenizer) -> None:
    served = Refused(demo_tokenizer)

    async def main() -> None:
        begun = (await served.request("POST", PATH, json={"input": "Hi", "background": True})).json()
        for _ in range(100):
            await asyncio.sleep(0)
            found = (await served.request("GET", f"{PATH}/{begun['id']}")).json()
            if found["status"] != "in_progress":
                break
        assert found["status"] == "failed"
        assert found["error"]["message"] == "text.format asks for what cannot be."

    asyncio.run(main())


@pytest.mark.parametrize("store", [True, False])
def test_what_is_stored(demo_tokenizer: Tokenizer, store: bool) -> None:
    served = Served(demo_tokenizer)
    made = served.post(PATH, {"input": "Hi", "store": store}).json()
    assert served.get(f"{PATH}/{made['id']}").status_code == (200 if store else 404)
