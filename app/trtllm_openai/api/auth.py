"""Authentication with API keys: one that is a setting, and those of a file of hashes.

A request gives its key as `Authorization: Bearer KEY` or as `x-api-key: KEY`.

Each line of the file is `NAME SCOPES SHA256 [LIMIT=VALUE …]`; SCOPES is api, admin or both, separated by a
comma; `#` starts a comment. Limits (`runners.tenants.KeyLimits`) are those of the name, and of all its keys.
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

from trtllm_openai.api import web
from trtllm_openai.api.errors import ApiError
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.runners.tenants import OTHER_LABEL, KeyLimits, Tenant

log = logging.getLogger(__name__)

SCOPES = frozenset({"api", "admin"})
ALWAYS_OPEN = frozenset({"/", "/health/live"})
HEALTH_PATHS = ALWAYS_OPEN | {"/health", "/health/ready", "/health/startup", "/health_generate", "/ping"}
METRICS_PATHS = frozenset({"/metrics", "/prometheus/metrics"})
SINGLE = "api_key"
"""Name of the key that is a setting."""
ADMIN_PATHS = (*sorted(METRICS_PATHS), "/status", "/admin")
RECHECK = 1.0
"""Minimum seconds between two checks of the file's modification time."""
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scopes>[a-z,]+)\s+(?P<hash>[0-9a-f]{64})(?P<limits>(\s+\S+)*)")


@dataclass(frozen=True, slots=True)
class Key:
    """Name, scopes and SHA-256 digest of a key; the key itself is not kept."""

    name: str
    scopes: frozenset[str]
    digest: bytes


def make_key(name: str, scopes: str) -> tuple[str, str]:
    """Generate a key. Returns the key and its line for the key file."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, f"{name} {scopes} {_digest(key).hex()}"


def open_paths(settings: Settings) -> frozenset[str]:
    """The paths that need no key."""
    paths = HEALTH_PATHS if settings.open_health else ALWAYS_OPEN
    if settings.web:
        paths |= web.paths()
    return paths | METRICS_PATHS if settings.open_metrics else paths


def keys_of(settings: Settings) -> Keys | None:
    """The keys of the settings, None where there are none. Raises `ConfigError`."""
    file = settings.api_keys_file
    if file is None and settings.api_key is None:
        return None
    return Keys(Path(file).expanduser() if file else None, settings.api_key, settings.max_key_labels)


class Keys:
    """The API keys of a file, reloaded when the file changes, and a single one with all scopes."""

    def __init__(self, path: Path | None, single: str | None = None, max_labels: int = 100) -> None:
        """`max_labels`: names that have a label of their own in metrics, the first ones of the file.

        Raises `ConfigError` if the file cannot be read or a line is malformed.
        """
        self._path = path
        self._single = [] if single is None else [Key(SINGLE, SCOPES, _digest(single))]
        self._max_labels = max_labels
        self._labels: set[str] = set()
        self._tenants = {key.name: Tenant(key.name, self._label(key.name)) for key in self._single}
        self._stamp = (0, 0)
        self._next_look = 0.0
        self._keys: list[Key] = self._single
        if path is None:
            return
        try:
            self._read(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"api_keys_file: {error}") from None

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._keys)

    def check(self, headers: Headers, path: str) -> str:
        """Authenticate a request to `path`. Returns the key's name. Raises `ApiError` 401 or 403."""
        self._refresh()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = [token if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
        digests = [_digest(one.strip()) for one in sent if one.strip()]
        if not digests:
            raise _unauthorized("An API key is required: send it as 'Authorization: Bearer KEY'.")
        found = None
        while found is None and digests:  # a client of two APIs sends both headers, one with a placeholder
            digest = digests.pop(0)
            for key in self._keys:  # compare with every key: constant time
                if hmac.compare_digest(key.digest, digest):
                    found = key
        if found is None:
            raise _unauthorized("The API key is invalid.")
        scope = "admin" if path.startswith(ADMIN_PATHS) else "api"
        if scope not in found.scopes:
            raise ApiError(403, f"This API key lacks the scope '{scope}'.", code="insufficient_scope")
        return found.name

    def tenant(self, name: str) -> Tenant:
        """Who `check` said that it is."""
        return self._tenants.get(name) or Tenant(name, OTHER_LABEL)

    def limits(self, name: str) -> KeyLimits | None:
        """The limits of a name; None if it has no key."""
        tenant = self._tenants.get(name)
        return tenant.limits if tenant is not None else None

    def _label(self, name: str) -> str:
        """Once given, a label stays, even if the name leaves the file: their number is that of all times."""
        if name not in self._labels and len(self._labels) < self._max_labels:
            self._labels.add(name)
        return name if name in self._labels else OTHER_LABEL

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + RECHECK
        try:
            if _stamp(self._path) != self._stamp:
                self._read(self._path)
                log.info("reloaded %d API keys", len(self._keys))
        except (OSError, ValueError) as error:
            log.error("reloading the API keys failed, the previous ones stay in use: %s", error)

    def _read(self, path: Path) -> None:
        stamp = _stamp(path)
        keys = [*self._single]
        limits = {key.name: KeyLimits() for key in keys}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            scopes = frozenset(match["scopes"].split(",")) if match else frozenset()
            if match is None or not scopes or not scopes <= SCOPES:
                raise ValueError(f"{path}, line {number}: expected NAME SCOPES SHA256")
            try:
                allowed = KeyLimits.parse(match["limits"].split())
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if limits.setdefault(match["name"], allowed) != allowed:
                raise ValueError(f"{path}, line {number}: {match['name']} had other limits before")
            keys.append(Key(match["name"], scopes, bytes.fromhex(match["hash"])))
        self._tenants = {name: Tenant(name, self._label(name), limits[name]) for name in limits}
        self._keys, self._stamp = keys, stamp


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
