"""The page at `/` and its files under `/web/`, from memory, with a strict Content-Security-Policy.

`/` is the page for those who accept HTML, which is browsers; everybody else gets what `api.health` says
there. The files need no key, as they are the same for everybody; what the page shows does.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtllm_openai.api import health
from trtllm_openai.api.errors import ApiError

router = APIRouter(include_in_schema=False)
PREFIX = "/web/"
PAGE = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""By a file's suffix; those of the module `mimetypes` depend on the machine."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for again by its tag: a new version is seen at once
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file, as it is and compressed."""

    body: bytes
    packed: bytes
    media_type: str
    etag: str
    """Weak, as it is that of both forms."""

    @classmethod
    def of(cls, name: str, body: bytes) -> WebFile:
        """`name`: for the media type."""
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        digest = hashlib.sha256(body).hexdigest()[:20]
        return cls(body, gzip.compress(body, 9, mtime=0), media_type, f'W/"{digest}"')

    def response(self, request: Request, vary: str = "accept-encoding") -> Response:
        """200 with the file, gzipped for those who accept that; 304 for those who have it."""
        headers = {**HEADERS, "etag": self.etag, "vary": vary}
        if self.etag in request.headers.get("if-none-match", "").split(", "):
            return Response(status_code=304, headers=headers)
        body = self.body
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = self.packed
            headers["content-encoding"] = "gzip"
        return Response(body, headers=headers, media_type=self.media_type)


@cache
def web_files() -> dict[str, WebFile]:
    """The package's files by name."""
    folder = files("trtllm_openai") / "web"
    return {one.name: WebFile.of(one.name, one.read_bytes()) for one in folder.iterdir() if one.is_file()}


def paths() -> frozenset[str]:
    """The paths of all files, which need no key."""
    return frozenset(PREFIX + name for name in web_files() if name != PAGE)


@router.get("/")
async def page(request: Request) -> Response:
    """The page, or the server's name for clients that do not accept HTML."""
    vary = "accept, accept-encoding"
    if "text/html" in request.headers.get("accept", ""):
        return web_files()[PAGE].response(request, vary)
    return JSONResponse(await health.root(), headers={"vary": vary})


@router.get(PREFIX + "{name}")
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    found = web_files().get(name)
    if found is None or name == PAGE:
        raise ApiError(404, f"No route {request.url.path}.", code="not_found")
    return found.response(request)
