"""Runner control over HTTP: what it shows, what it restarts, and who may ask."""

import asyncio
from pathlib import Path
from typing import Any

from tests.unit.api.served import Served, keys_file
from trtllm_openai.api.auth import make_key
from trtllm_openai.text.tokenizer import Tokenizer


def admin(tokenizer: Tokenizer, tmp_path: Path, **settings: Any) -> tuple[Served, dict[str, str]]:
    key, line = make_key("ops", "api,admin")
    (tmp_path / "keys").write_text(line)
    served = Served(tokenizer, api_keys_file=str(tmp_path / "keys"), **settings)
    return served, {"authorization": f"Bearer {key}"}


def test_runners_without_their_endpoints(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    served, headers = admin(demo_tokenizer, tmp_path)
    assert served.get("/admin/runners", headers=headers).json() == {
        "runners": [
            {
                "index": 0,
                "state": "ready",
                "reason": "",
                "pid": 7,
                "node": None,
                "sequences": 3,
                "retiring": False,
            }
        ],
        "wanted": 1,
        "restarts": 0,
    }


def test_restart_drains_as_long_as_the_server_would(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    served, headers = admin(demo_tokenizer, tmp_path, drain_timeout=12)

    def restart(index: str) -> Any:
        return asyncio.run(served.request("POST", f"/admin/runners/{index}/restart", headers=headers))

    assert restart("0").status_code == 202
    assert served.pool.restarted == [(0, 12.0)]
    missing = restart("5")
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "index"
    assert restart("first").status_code == 400
    assert served.pool.restarted == [(0, 12.0)]


def test_without_keys_nobody_may(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    response = served.get("/admin/runners")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "no_admin_keys"
    assert asyncio.run(served.request("POST", "/admin/runners/0/restart")).status_code == 403
    assert served.pool.restarted == []


def test_before_there_is_a_pool(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    served, headers = admin(demo_tokenizer, tmp_path)
    served.context.pool = None
    assert served.get("/admin/runners", headers=headers).status_code == 503


def test_what_each_key_has_used(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="", bob="", carol="", dave="")
    served = Served(demo_tokenizer, api_keys_file=file, max_key_labels=2)
    bodies = {"alice": 2, "bob": 1, "carol": 3, "dave": 4}
    for name, times in bodies.items():
        for _ in range(times):
            body = {"prompt": [1, 2, 3], "max_tokens": 2, "n": 2}
            assert served.post("/v1/completions", body, headers=headers[name]).status_code == 200
    told = served.get("/admin/usage", headers=headers["alice"]).json()
    assert told["since"] == served.context.created
    counts = ("requests", "prompt_tokens", "generation_tokens", "cached_tokens", "rejected")
    assert {key: [used[one] for one in counts] for key, used in told["keys"].items()} == {
        "alice": [2, 6, 8, 0, 0],
        "bob": [1, 3, 4, 0, 0],
        "other": [7, 21, 28, 0, 0],
    }
    for used in told["keys"].values():
        for latency in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
            assert used[latency]["count"] == used["requests"]
            assert 0 < used[latency]["p50"] <= used[latency]["p99"]
    text = served.get("/metrics", headers=headers["alice"]).text
    assert 'trtllm_openai_key_generation_tokens_total{key="other"} 28.0' in text
    assert "carol" not in text


def test_rejections_count_for_their_key(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="")
    served = Served(demo_tokenizer, api_keys_file=file, limits={"max_requests_per_key": 1})
    served.pool.hold = True

    async def main() -> dict[str, Any]:
        def ask() -> Any:
            return served.request("POST", "/v1/completions", json={"prompt": [1]}, headers=headers["alice"])

        running = asyncio.create_task(ask())
        while not served.pool.requests:
            await asyncio.sleep(0)
        assert (await ask()).status_code == 429
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        told = (await served.request("GET", "/admin/usage", headers=headers["alice"])).json()
        return dict(told["keys"]["alice"])

    used = asyncio.run(main())
    assert used["rejected"] == 1
    assert (used["requests"], used["prompt_tokens"], used["generation_tokens"]) == (1, 1, 0), "it had begun"
    assert used["time_to_first_token_seconds"] == {"count": 0, "mean": None, "p50": None, "p99": None}


def test_usage_is_for_admins(demo_tokenizer: Tokenizer) -> None:
    response = Served(demo_tokenizer).get("/admin/usage")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "no_admin_keys")
