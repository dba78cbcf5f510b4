"""Bearer keys from a file of hashes: who may call the API, and who may see and steer the server.

A line is `NAME SCOPES SHA256`, scopes being api, admin or both with a comma between; `#` begins a comment.
`trtllm-openai key NAME` makes a key and its line. The file is read again when it changed.
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
"""Seconds between two looks at the file's time of change."""
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scopes>[a-z,]+)\s+(?P<hash>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Key:
    """A known key, without the key itself."""

    name: str
    scopes: frozenset[str]
    digest: bytes


def make_key(name: str, scopes: str) -> tuple[str, str]:
    """A new key, and the line that makes it known."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"{name} {scopes} {hashlib.sha256(key.encode()).hexdigest()}"


class Keys:
    """The keys of a file."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` when the file cannot be used."""
        self._path = path
        self._stamp = (0, 0)
        self._next_look = 0.0
        self._keys: list[Key] = []
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"api_keys_file: {error}") from None

    def check(self, headers: Headers, path: str) -> str:
        """The name of the key that the request carries. Raises `ApiError` 401 or 403."""
        self._refresh()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("An API key is needed: send it as 'Authorization: Bearer KEY'.")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:  # all of them, so that the time says nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise _unauthorized("This API key is not known here.")
        scope = "admin" if path.startswith(ADMIN_PATHS) else "api"
        if scope not in found.scopes:
            raise ApiError(403, f"This API key has no scope {scope}.", code="insufficient_scope")
        return found.name

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + RECHECK
        try:
            if self._seen() != self._stamp:
                self._read()
                log.info("API keys read again: %d", len(self._keys))
        except (OSError, ValueError) as error:
            log.error("the API keys are kept as they were: %s", error)

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
                raise ValueError(f"{self._path}, line {number}: it must be NAME SCOPES SHA256")
            keys.append(Key(match["name"], scopes, bytes.fromhex(match["hash"])))
        self._keys, self._stamp = keys, stamp


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
