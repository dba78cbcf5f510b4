"""Runner control over HTTP: what it shows, what it restarts, and who may ask."""

import asyncio
from pathlib import Path
from typing import Any

from tests.unit.api.served import Served
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
        "runners": [{"index": 0, "state": "ready", "reason": "", "pid": 7, "sequences": 3}],
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
