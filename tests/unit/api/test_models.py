"""The list of models: the served one, with the engine's limits once they are known."""

from anthropic.types import ModelInfo

from tests.unit.api.served import Served
from trtllm_openai.text.tokenizer import Tokenizer


def test_the_card_has_the_engines_limits(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, served_model_name="org/name")
    (card,) = served.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"], card["created"]) == ("org/name", 512, served.context.created)
    engine = card["trtllm_openai"]
    assert (engine["engine"], engine["max_batch_size"]) == ("fake", 8)
    assert engine["capabilities"]["guides"] == ["json_object", "json_schema"]
    assert served.get("/v1/models/org/name").json() == card, "an id may have a slash"


def test_clients_of_anthropics_api_read_their_own_fields(demo_tokenizer: Tokenizer) -> None:
    settings = {"lora_adapters": {"sql": "/adapters/sql"}}
    served = Served(demo_tokenizer, engine="tensorrt_llm", served_model_name="base", tensorrt_llm=settings)
    page = served.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("base", "sql", False)
    model = ModelInfo.model_validate(page["data"][1], strict=False)
    assert (model.type, model.display_name, model.lifecycle) == ("model", "sql", "active")
    assert int(model.created_at.timestamp()) == served.context.created


def test_before_an_engine_is_ready(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.info = None
    (card,) = served.get("/v1/models").json()["data"]
    assert (card["max_model_len"], card["trtllm_openai"]) == (None, None)


def test_another_model_is_not_here(demo_tokenizer: Tokenizer) -> None:
    response = Served(demo_tokenizer).get("/v1/models/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_adapters_are_models_made_of_the_served_one(demo_tokenizer: Tokenizer) -> None:
    """As with vLLM, `parent` names the base; no path of the server is told."""
    settings = {"lora_adapters": {"sql": "/adapters/sql", "chat/ko": "/adapters/ko"}}
    served = Served(demo_tokenizer, engine="tensorrt_llm", served_model_name="base", tensorrt_llm=settings)
    listed = served.get("/v1/models")
    cards = {card["id"]: (card["root"], card["parent"]) for card in listed.json()["data"]}
    assert cards == {"base": ("base", None), "sql": ("base", "base"), "chat/ko": ("base", "base")}
    assert "/adapters" not in listed.text
    card = served.get("/v1/models/chat/ko").json()
    assert (card["id"], card["parent"], card["max_model_len"]) == ("chat/ko", "base", 512)


def test_several_names_of_one_model(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, served_model_name=["gpt-4o", "small", "org/name"])
    cards = served.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["gpt-4o", "small", "org/name"]
    assert {(card["root"], card["parent"]) for card in cards} == {("gpt-4o", None)}
    for name in ("gpt-4o", "org/name"):
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        assert served.post("/v1/chat/completions", body).json()["model"] == name
    refused = served.post("/v1/chat/completions", {**body, "model": "large"})
    assert refused.status_code == 404
    assert "this server has 'gpt-4o', 'small', 'org/name'" in refused.json()["error"]["message"]
    assert served.get("/health/ready").json()["model"] == "gpt-4o"
