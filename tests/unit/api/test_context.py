"""The state that routes share: readiness in every phase of start-up, and the served model."""

import pytest

from tests.unit.api.served import Served, engine_info
from trtllm_openai.api.context import Readiness
from trtllm_openai.api.errors import ApiError
from trtllm_openai.errors import PoolError
from trtllm_openai.runners.state import Phase
from trtllm_openai.text.tokenizer import Tokenizer


def test_readiness_follows_start_up_then_the_pool(demo_tokenizer: Tokenizer) -> None:
    context = Served(demo_tokenizer).context
    assert context.readiness == Readiness(True, "", 0.5)
    pool, context.pool = context.pool, None
    context.startup = Readiness(False, "converting", 0.25)
    assert context.readiness == context.startup
    context.pool = pool
    assert context.readiness.ready, "the pool counts once there is one"
    context.startup = Readiness(False, "broken", 0.0, failed=True)
    assert context.readiness.reason == "broken"
    context.draining = True
    assert context.readiness == Readiness(False, "draining", 1.0)


def test_a_pool_that_gave_up_has_failed(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.phase, served.pool.reason = Phase.GIVEN_UP, "it crashed"
    assert served.context.readiness.failed
    assert "it crashed" in served.context.readiness.reason
    served.pool.info = None
    with pytest.raises(PoolError) as caught:
        served.context.loaded()
    assert not caught.value.loading


def test_the_loaded_model_is_made_anew_for_another_engine(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    first = served.context.loaded()
    assert served.context.loaded() is first
    served.pool.info = engine_info(5)
    assert served.context.loaded().info.vocab_size == 5


def test_check_model(demo_tokenizer: Tokenizer) -> None:
    context = Served(demo_tokenizer, served_model_name="m").context
    context.check_model(None)
    context.check_model("m")
    with pytest.raises(ApiError) as caught:
        context.check_model("M")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_an_adapters_id_stands_for_the_model_with_it(demo_tokenizer: Tokenizer) -> None:
    settings = {"lora_adapters": {"sql": "/sql"}}
    context = Served(
        demo_tokenizer, engine="tensorrt_llm", served_model_name="m", tensorrt_llm=settings
    ).context
    context.check_model("sql")
    assert (context.loaded("sql").id, context.loaded("sql").adapter) == ("sql", "sql")
    for base in ("m", None):
        assert (context.loaded(base).id, context.loaded(base).adapter) == ("m", None)
    with pytest.raises(ApiError, match="this server has 'm', 'sql'"):
        context.check_model("other")


def test_another_engine_has_no_adapters(demo_tokenizer: Tokenizer) -> None:
    context = Served(demo_tokenizer, tensorrt_llm={"lora_adapters": {"sql": "/sql"}}).context
    assert not context.adapters
    with pytest.raises(ApiError):
        context.check_model("sql")
