"""GET /status: the whole server in one document, for those who may read metrics."""

from pathlib import Path

from tests.unit.api.served import Served
from trtllm_openai.api.auth import make_key
from trtllm_openai.runners.state import Phase
from trtllm_openai.text.tokenizer import Tokenizer


def test_what_it_shows(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, workers=1)
    history = served.service.deployment.history
    assert history is not None
    history.add(served.context.metrics.snapshot(), 5.0)
    served.post("/v1/completions", {"prompt": "a", "n": 2})
    response = served.get("/status")
    assert response.headers["cache-control"] == "no-store"
    status = response.json()
    assert (status["ready"], status["workers"], status["model"]) == (True, 1, served.context.model_id)
    assert status["runners"] == [
        {
            "index": 0,
            "state": "ready",
            "reason": "",
            "loaded": 0.5,
            "sequences": 3,
            "node": None,
            "gpus": None,
            "retiring": False,
        }
    ]
    assert (status["wanted"], status["restarts"]) == (1, 0)
    assert status["info"]["max_seq_len"] == 512
    assert status["samples"]["sequences"] == [0, 2]
    assert sum(status["histograms"]["time_to_first_token_seconds"]["counts"]) == 1
    assert status["failures"] == []


def test_failures_with_their_code_and_without_what_the_request_said(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.phase, served.pool.reason = Phase.GIVEN_UP, "out of memory"
    served.context.draining = True
    for _ in range(2):
        response = served.post("/v1/completions", {"prompt": "a secret"})
    assert response.status_code == 503
    assert served.post("/v1/completions", {"prompt": "a secret", "temperature": 9}).status_code == 503
    served.context.draining = False
    assert served.post("/v1/completions", {"prompt": "a secret", "temperature": 9}).status_code == 400
    text = served.get("/status").text
    assert "secret" not in text
    status = served.get("/status").json()
    assert (status["ready"], status["reason"]) == (False, "runner 0 was given up: out of memory")
    (failure,) = status["failures"]
    assert failure["at"] <= status["now"]
    assert (failure["what"], failure["reason"], failure["status"], failure["count"]) == (
        "POST other",
        "service_unavailable",
        503,
        3,
    )


def test_an_error_of_a_route_has_its_code(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.context.pool = None
    assert served.post("/v1/completions", {"prompt": "a"}).status_code == 503
    assert served.post("/tokenize", {"prompt": "a"}).status_code == 503
    status = served.get("/status").json()
    assert [(one["what"], one["reason"]) for one in status["failures"]] == [
        ("POST /tokenize", "service_unavailable"),
        ("POST /v1/completions", "service_unavailable"),
    ]
    assert (status["runners"], status["info"], status["ready"]) == ([], None, False)


def test_it_is_for_admins_where_there_are_keys(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = {scope: make_key(scope, scope) for scope in ("api", "admin")}
    (tmp_path / "keys").write_text("\n".join(line for _, line in made.values()))
    served = Served(demo_tokenizer, api_keys_file=str(tmp_path / "keys"))
    assert served.get("/status").status_code == 401
    found = {
        scope: served.get("/status", headers={"authorization": f"Bearer {key}"}).status_code
        for scope, (key, _) in made.items()
    }
    assert found == {"api": 403, "admin": 200}
