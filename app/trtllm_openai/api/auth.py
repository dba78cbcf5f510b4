"""Bearer-token authentication with API keys from a file of hashes.

Each line is `NAME SCOPES SHA256`; SCOPES is api, admin or both, separated by a comma; `#` starts a comment.
The scope api permits the API, admin permits metrics and runner control. `trtllm-openai key NAME` generates a
key and its line. The file is reloaded when its modification time or size changes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers

from trtllm_openai.api.errors import ApiError
from trtllm_openai.errors import ConfigError

log = logging.getLogger(__name__)

SCOPES = frozenset({"api", "admin"})
OPEN_PATHS = frozenset({"/health/live"})
ADMIN_PATHS = ("/metrics", "/admin")
RECHECK = 1.0
"""Minimum seconds between two checks of the file's modification time."""
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scopes>[a-z,]+)\s+(?P<hash>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Key:
    """Name, scopes and SHA-256 digest of a key; the key itself is not kept."""

    name: str
    scopes: frozenset[str]
    digest: bytes


def make_key(name: str, scopes: str) -> tuple[str, str]:
    """Generate a key. Returns the key and its line for the key file."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"{name} {scopes} {hashlib.sha256(key.encode()).hexdigest()}"


class Keys:
    """The API keys of a file, reloaded when the file changes."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` if the file cannot be read or a line is malformed."""
        self._path = path
        self._stamp = (0, 0)
        self._next_look = 0.0
        self._keys: list[Key] = []
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"api_keys_file: {error}") from None

    def check(self, headers: Headers, path: str) -> str:
        """Authenticate a request to `path`. Returns the key's name. Raises `ApiError` 401 or 403."""
        self._refresh()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("An API key is required: send it as 'Authorization: Bearer KEY'.")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:  # compare with every key: constant time
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise _unauthorized("The API key is invalid.")
        scope = "admin" if path.startswith(ADMIN_PATHS) else "api"
        if scope not in found.scopes:
            raise ApiError(403, f"This API key lacks the scope '{scope}'.", code="insufficient_scope")
        return found.name

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + RECHECK
        try:
            if self._seen() != self._stamp:
                self._read()
                log.info("reloaded %d API keys", len(self._keys))
        except (OSError, ValueError) as error:
            log.error("reloading the API keys failed, the previous ones stay in use: %s", error)

    def _seen(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size

    def _read(self) -> None:
        stamp = self._seen()
        keys = []
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            scopes = frozenset(match["scopes"].split(",")) if match else frozenset()
            if match is None or not scopes or not scopes <= SCOPES:
                raise ValueError(f"{self._path}, line {number}: expected NAME SCOPES SHA256")
            keys.append(Key(match["name"], scopes, bytes.fromhex(match["hash"])))
        self._keys, self._stamp = keys, stamp


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
