"""Health checks in every state of the server."""

from tests.unit.api.served import Served
from trtllm_openai import __version__
from trtllm_openai.api.context import Readiness
from trtllm_openai.runners.state import Phase
from trtllm_openai.text.tokenizer import Tokenizer


def test_ready(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    for path in ("/health", "/health/ready", "/ping"):
        assert served.get(path).json() == {"status": "ready", "model": served.context.model_id}
    assert served.get("/health/startup").status_code == 200
    assert served.get("/version").json() == {"version": __version__, "engine": "synthetic"}


def test_loading_says_how_far_it_is(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.phase, served.pool.reason, served.pool.info = Phase.LOADING, "weights", None
    assert served.post("/ping", None).status_code == 503
    for path in ("/health", "/health/ready", "/health/startup", "/ping", "/health_generate"):
        response = served.get(path)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert response.json()["error"]["message"].endswith("is loading: weights (50% loaded)")
    assert served.get("/health/live").status_code == 200


def test_a_failed_start_has_no_progress(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.context.pool = None
    served.context.startup = Readiness(False, "no such model", 0.0, failed=True)
    assert served.get("/health").json()["error"]["message"] == "Not ready: no such model"


def test_draining_has_started_all_the_same(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.context.draining = True
    assert served.get("/health/ready").json()["error"]["message"] == "Not ready: draining"
    assert served.get("/health/startup").status_code == 200


def test_metrics_are_prometheus_text(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.post("/v1/completions", {"prompt": "a"})
    response = served.get("/metrics")
    named = {line.partition("{")[0].partition(" ")[0] for line in response.text.splitlines()}
    other = served.get("/prometheus/metrics").text
    assert {line.partition("{")[0].partition(" ")[0] for line in other.splitlines()} == named
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'trtllm_openai_sequences_total{finish_reason="stop"} 1.0' in response.text
