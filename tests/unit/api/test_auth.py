"""Keys by hash: scopes, the file's faults by line, and reading it again."""

import logging
import os
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from trtllm_openai.api import auth
from trtllm_openai.api.auth import Keys, make_key
from trtllm_openai.api.errors import ApiError
from trtllm_openai.errors import ConfigError


def bearer(key: str) -> Headers:
    return Headers({"authorization": f"Bearer {key}"})


def status_of(keys: Keys, headers: Headers, path: str) -> tuple[int, str | None]:
    with pytest.raises(ApiError) as caught:
        keys.check(headers, path)
    return caught.value.status, caught.value.code


def test_scopes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    user, user_line = make_key("alice", "api")
    admin, admin_line = make_key("ops", "api,admin")
    file.write_text(f"# people\n{user_line}\n\n{admin_line}  # on call\n")
    keys = Keys(file)
    assert keys.check(bearer(user), "/v1/completions") == "alice"
    assert keys.check(bearer(admin), "/v1/completions") == "ops"
    assert keys.check(bearer(admin), "/metrics") == "ops"
    assert status_of(keys, bearer(user), "/metrics") == (403, "insufficient_scope")
    for path in ("/admin/runners", "/admin/runners/0/restart"):
        assert keys.check(bearer(admin), path) == "ops"
        assert status_of(keys, bearer(user), path) == (403, "insufficient_scope")
    assert user not in file.read_text()


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer \udcff"])
def test_no_or_unknown_key(tmp_path: Path, value: str) -> None:
    file = tmp_path / "keys"
    file.write_text(make_key("alice", "api")[1])
    headers = Headers(raw=[(b"authorization", value.encode("utf-8", "surrogateescape"))])
    assert status_of(Keys(file), headers, "/v1/models") == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "line",
    ["alice", "alice api", "alice root " + "0" * 64, "alice api " + "0" * 63, "alice api, " + "0" * 64],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# fine\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        Keys(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_keys_file"):
        Keys(tmp_path / "none")


def test_it_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auth, "RECHECK", 0.0)
    file = tmp_path / "keys"
    old, old_line = make_key("alice", "api")
    new, new_line = make_key("bob", "api")
    file.write_text(old_line)
    keys = Keys(file)
    file.write_text(f"{new_line}\n")
    os.utime(file, ns=(1, 1))
    assert keys.check(bearer(new), "/v1/models") == "bob"
    assert status_of(keys, bearer(old), "/v1/models") == (401, "invalid_api_key")
    file.write_text("nonsense\n")
    with caplog.at_level(logging.ERROR):
        assert keys.check(bearer(new), "/v1/models") == "bob"
    assert "kept as they were" in caplog.text
