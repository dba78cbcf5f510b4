"""A chat's `prediction`: its tokens go to an engine that drafts from them; what is no text is refused."""

from typing import Any

import pytest

from tests.unit.api.served import Served, engine_info
from trtllm_openai.generation import Capabilities
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def drafting(tokenizer: Tokenizer) -> Served:
    served = Served(tokenizer)
    served.pool.info = engine_info(tokenizer.vocab_size, Capabilities(prediction=True))
    return served


def test_a_prediction_goes_to_an_engine_that_drafts_from_it(demo_tokenizer: Tokenizer) -> None:
    served = drafting(demo_tokenizer)
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]
    expected = demo_tokenizer.encode("Hello there", add_special_tokens=False)
    for content in ("Hello there", parts):
        body = {"messages": MESSAGES, "n": 2, "prediction": {"type": "content", "content": content}}
        response = served.post(PATH, body)
        assert response.status_code == 200, response.text
        assert "x-ignored-params" not in response.headers
        assert [one.prediction_token_ids for one in served.pool.requests[-2:]] == [expected, expected]
    served.post(PATH, {"messages": MESSAGES})
    assert served.pool.requests[-1].prediction_token_ids == []


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ({"type": "text", "content": "x"}, "prediction.type"),
        ({"content": "x"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": [{"type": "image_url", "text": ""}]}, "prediction.content[0].type"),
        ({"type": "content", "content": [{"type": "text", "text": 5}]}, "prediction.content"),
        ("Hello", "prediction"),
    ],
)
def test_what_is_no_prediction(demo_tokenizer: Tokenizer, prediction: Any, param: str) -> None:
    served = drafting(demo_tokenizer)
    status, named, _ = served.refusal(PATH, {"messages": MESSAGES, "prediction": prediction})[:3]
    assert (status, str(named).startswith(param)) == (400, True), named
