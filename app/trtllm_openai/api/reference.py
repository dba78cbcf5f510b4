"""`/docs`: the OpenAPI document as one page that needs nothing from outside: no script, no style, no font.

FastAPI's own page loads Swagger UI from a CDN, which a server on a closed network cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from trtllm_openai.protocol.common import JsonObject

router = APIRouter(include_in_schema=False)
HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_REF = "#/components/schemas/"
_STYLE = """ :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; } body { max-width:
62rem; margin: 2rem auto; padding: 0 1rem; } code, summary { font-family: ui-monospace, monospace;
overflow-wrap: anywhere; } details { border: 1px solid #8886; border-radius: 6px; margin: .5rem 0; padding:
.4rem .8rem; } summary { cursor: pointer; } table { border-collapse: collapse; width: 100%; margin: .5rem 0;
} th, td { border-bottom: 1px solid #8884; padding: .25rem .5rem .25rem 0; text-align: left; vertical-align:
top; }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The reference as a page."""
    return HTMLResponse(page(request.app.openapi()), headers=HEADERS)


def page(document: JsonObject) -> str:
    """The page of an OpenAPI document: a section for each operation, then one for each schema."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
            f"<p>{escape(document['info'].get('description', ''))} For programs: "
            '<a href="/openapi.json">openapi.json</a>.</p><h2>Routes</h2>',
            *_operations(document),
            "<h2>Schemas</h2>",
            *_schemas(document),
            "</body></html>",
        ]
    )


def _operations(document: JsonObject) -> Iterator[str]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<details><summary>{method.upper()} {escape(path)}</summary>"
            yield f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
            if parameters := operation.get("parameters"):
                yield _table([(one["name"], one, one.get("required", False)) for one in parameters])
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"<p>Body, <code>{escape(kind)}</code>: {_kind(content.get('schema', {}))}</p>"
            yield "<table><tr><th>Status</th><th>Answer</th></tr>"
            for status, response in operation["responses"].items():
                kinds = " or ".join(
                    f"<code>{escape(kind)}</code> {_kind(content.get('schema', {}))}"
                    for kind, content in response.get("content", {}).items()
                )
                yield f"<tr><td>{escape(status)}</td><td>{escape(response['description'])} {kinds}</td></tr>"
            yield "</table></details>"


def _schemas(document: JsonObject) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{escape(name)}" open><summary>{escape(name)}</summary>'
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        required = schema.get("required", [])
        if fields := schema.get("properties"):
            yield _table([(field, one, field in required) for field, one in fields.items()])
        else:
            yield f"<p>{_kind(schema)}</p>"
        yield "</details>"


def _table(rows: list[tuple[str, JsonObject, bool]]) -> str:
    lines = ["<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>"]
    for name, field, required in rows:
        schema = field.get("schema", field)
        facts = [escape(field.get("description", ""))]
        facts += [f"At least {schema['minimum']}."] if "minimum" in schema else []
        facts += [f"At most {schema['maximum']}."] if "maximum" in schema else []
        facts += ["<b>Required.</b>"] if required else []
        if schema.get("default") is not None:
            facts.append(f"Default <code>{escape(str(schema['default']))}</code>.")
        text = " ".join(filter(None, facts))
        lines.append(f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td><td>{text}</td></tr>")
    return "\n".join([*lines, "</table>"])


def _kind(schema: Any) -> str:
    """The type of a value in words, with links to schemas."""
    if not isinstance(schema, dict):
        return "any"
    if ref := schema.get("$ref"):
        name = escape(ref.removeprefix(_REF))
        return f'<a href="#{name}">{name}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(map(_kind, schema[several])))
    if "enum" in schema or "const" in schema:
        return " | ".join(
            f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")])
        )
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_kind(schema.get('items'))}"
    return escape(" | ".join(kind) if isinstance(kind, list) else str(kind))
