"""Every setting as a row of a table, and the command that writes them into a page.

`python -m trtllm_openai.config.docs docs/configuration.md` replaces the text between the page's two markers.
All of it follows from the fields of `Settings`: name, type, bounds, default, description, flag and variable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from trtllm_openai.config.fields import Section
from trtllm_openai.config.flags import Flag, flags
from trtllm_openai.config.settings import Settings
from trtllm_openai.pages import Part

_KINDS = {"switch": "true or false", "text": "text", "integer": "integer", "number": "number", "list": "list"}
_ENDS = {"ge": Ge, "gt": Gt, "le": Le, "lt": Lt}
_SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def tables() -> str:
    """A table of the settings of the whole server, and one for each section under its heading."""
    found = [flag for flag in flags().values() if flag.kind != "section"]
    parts = []
    for section in dict.fromkeys(flag.section for flag in found):
        about = flags()[section].help if section else ""
        title = f"## `{section}`" if section else "## The whole server"
        parts += [
            title,
            *([about] if about else []),
            _table(flag for flag in found if flag.section == section),
        ]
    return "\n\n".join(["", *parts]) + "\n"


def _table(rows: Iterable[Flag]) -> str:
    lines = ["| setting, flag, environment variable | type | |", "|---|---|---|"]
    for flag in rows:
        names = f'<a id="{flag.key}"></a>**`{flag.key}`**<br>`{flag.flag}`<br>`{flag.variable}`'
        lines.append(f"| {names} | {_type(flag)}<br>default {_default(flag)} | {_text(flag.help)} |")
    return "\n".join(lines)


def _type(flag: Flag) -> str:
    field = _field(flag.key)
    if flag.kind == "choice":
        shown = ", ".join(f"`{one}`" for one in flag.choices)
    elif flag.kind == "map":
        shown = "map of text to text"
    else:
        number = flag.kind in ("integer", "number")
        bounds = _bounds([*field.metadata, *_nested(field.annotation)]) if number else ""
        shown = f"{_KINDS[flag.kind]} {bounds}".rstrip()
    return shown + (", or null" if flag.nullable else "")


def _field(key: str) -> FieldInfo:
    section, _, name = key.rpartition(".")
    default = Settings.model_fields[section].default if section else None
    assert default is None or isinstance(default, Section)
    return (Settings if default is None else type(default)).model_fields[name]


def _nested(annotation: Any) -> Iterable[Any]:
    """The constraints (pydantic metadata) on the values inside of an optional type."""
    if get_origin(annotation) is Annotated:
        for one in get_args(annotation)[1:]:
            yield from one.metadata if isinstance(one, FieldInfo) else [one]
    else:
        for one in get_args(annotation):
            yield from _nested(one)


def _bounds(metadata: Iterable[Any]) -> str:
    """The range of a number: `≥ 0`, or `0 to 1` if both ends belong to it."""
    found = {
        kind: _number(getattr(one, name))
        for one in metadata
        for name, kind in _ENDS.items()
        if isinstance(one, kind)
    }
    if found.keys() == {Ge, Le}:
        return f"{found[Ge]} to {found[Le]}"
    return ", ".join(f"{_SIGNS[kind]} {end}" for kind, end in found.items())


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _default(flag: Flag) -> str:
    return f"`{json.dumps(flag.default)}`" if isinstance(flag.default, bool | None) else f"`{flag.default}`"


def _text(description: str) -> str:
    """A description as Markdown, in which a template's tag is no HTML."""
    return description.replace("|", "\\|").replace("<", "&lt;")


PART = Part("settings", "trtllm_openai.config.docs", tables)

if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
