"""Keys by hash: scopes, the file's faults by line, and reading it again."""

import logging
import os
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from trtllm_openai.api import auth
from trtllm_openai.api.auth import Keys, keys_of, make_key, open_paths
from trtllm_openai.api.errors import ApiError
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.runners.tenants import KeyLimits


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


def test_a_single_key_beside_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    user, line = make_key("alice", "api")
    file.write_text(line)
    for path in (None, file):
        keys = Keys(path, "secret")
        for route in ("/v1/models", "/metrics"):
            assert keys.check(bearer("secret"), route) == "api_key"
        assert status_of(keys, bearer("other"), "/v1/models")[0] == 401
    assert keys.check(bearer(user), "/v1/models") == "alice"


def test_the_header_of_anthropics_clients() -> None:
    keys = Keys(None, "secret")
    for headers in (
        {"x-api-key": "secret"},
        {"x-api-key": "secret", "authorization": "Bearer placeholder"},
        {"x-api-key": "placeholder", "authorization": "Bearer secret"},
        {"x-api-key": " secret ", "authorization": "Basic YTpi"},
    ):
        assert keys.check(Headers(headers), "/v1/models") == "api_key"
    for value in ("", " ", "other"):
        assert status_of(keys, Headers({"x-api-key": value}), "/v1/models")[0] == 401


def test_keys_of_the_settings(tmp_path: Path) -> None:
    assert keys_of(Settings()) is None
    assert keys_of(Settings(api_key="secret")) is not None
    with pytest.raises(ConfigError):
        keys_of(Settings(api_key="secret", api_keys_file=str(tmp_path / "none")))


def test_probes_need_no_key_unless_told_so() -> None:
    probes = {"/", "/health", "/health/live", "/health/ready", "/health/startup", "/health_generate", "/ping"}
    assert open_paths(Settings(web=False)) == probes
    assert open_paths(Settings(web=False, open_health=False)) == {"/", "/health/live"}


def test_the_files_of_the_page_need_no_key() -> None:
    files = open_paths(Settings()) - open_paths(Settings(web=False))
    assert files
    assert files == open_paths(Settings(open_health=False)) - {"/", "/health/live"}
    assert all(path.startswith("/web/") for path in files)


def test_metrics_need_the_scope_admin_unless_told_otherwise(tmp_path: Path) -> None:
    user, line = make_key("alice", "api")
    file = tmp_path / "keys"
    file.write_text(line)
    for path in ("/metrics", "/prometheus/metrics"):
        assert status_of(Keys(file), bearer(user), path) == (403, "insufficient_scope")
    opened = open_paths(Settings(open_metrics=True)) - open_paths(Settings())
    assert opened == {"/metrics", "/prometheus/metrics"}


@pytest.mark.parametrize(
    "line",
    ["alice", "alice api", "alice root " + "0" * 64, "alice api " + "0" * 63, "alice api, " + "0" * 64]
    + [f"alice api {'0' * 64} {limit}" for limit in ("rpm=5", "concurrent=0", "concurrent", "priority=2")],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# fine\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        Keys(file)


def test_the_first_names_have_labels_and_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RECHECK", 0.0)
    file = tmp_path / "keys"
    made = {name: make_key(name, "api") for name in ("alice", "bob", "carol", "dave")}
    file.write_text("\n".join(made[name][1] for name in ("alice", "bob", "alice", "carol")))
    keys = Keys(file, max_labels=2)
    assert [keys.tenant(name).label for name in ("alice", "bob", "carol")] == ["alice", "bob", "other"]
    file.write_text("\n".join(made[name][1] for name in ("dave", "carol", "bob")))
    assert keys.check(bearer(made["dave"][0]), "/v1/models") == "dave"
    assert [keys.tenant(name).label for name in ("dave", "carol", "bob")] == ["other", "other", "bob"]


def test_limits_are_those_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RECHECK", 0.0)
    file = tmp_path / "keys"
    (key, line), (_, second) = make_key("alice", "api"), make_key("alice", "admin")
    file.write_text(f"{line} concurrent=3  max_tokens=9 # both\n{second} max_tokens=9 concurrent=3\n")
    keys = Keys(file)
    assert keys.tenant("alice").limits == KeyLimits(concurrent=3, max_tokens=9)
    file.write_text(f"{line} concurrent=4\n")
    keys.check(bearer(key), "/v1/models")
    assert keys.tenant("alice").limits == KeyLimits(concurrent=4)
    file.write_text(f"{line} concurrent=3\n{second}\n")
    with pytest.raises(ConfigError, match="line 2: alice had other limits before"):
        Keys(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_keys_file"):
        Keys(tmp_path / "none")


def test_a_changed_file_is_reloaded_and_a_broken_one_is_not(
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
    assert "the previous ones stay in use" in caplog.text
