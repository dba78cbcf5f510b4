"""Every setting as a flag and as an environment variable: names, kinds, and how their texts are read.

All of it follows from the fields of `Settings`. Validation is pydantic's: here a text becomes the list, map
or section that the field takes, and any other text stays as it is.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from trtllm_openai.config.environment import ENV_PREFIX
from trtllm_openai.config.fields import Section
from trtllm_openai.config.settings import Settings
from trtllm_openai.errors import ConfigError

Kind = Literal["text", "integer", "number", "switch", "choice", "list", "map", "section"]
VERBATIM = frozenset({"synthetic.script"})
"""Lists whose texts may hold commas and brackets: a flag is one text as it is, or a JSON list of texts."""
PATHS = frozenset(
    {"model", "tokenizer", "chat_template", "cache_dir", "api_keys_file", "tls_certificate", "tls_key"}
)
"""Settings that name a file or directory, for completion."""
_FORMS = "a list is a,b or a JSON list, a map is key=value or a JSON object"


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting, or one section as a whole.

    `key`: as in config.yaml, with a dot after its section. `choices`: of the kind choice. `nullable`: `null`
    means None. `default`: as JSON would write it; None for a section.
    """

    key: str
    kind: Kind
    help: str
    choices: tuple[str, ...] = ()
    nullable: bool = False
    default: Any = None

    @property
    def section(self) -> str:
        """Its section; empty for a setting of the whole server."""
        return self.key.rpartition(".")[0]

    @property
    def flag(self) -> str:
        """As the command line has it: `--torch.max-batch-size`."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """As the environment has it: `TRTLLM_OPENAI_TORCH__MAX_BATCH_SIZE`."""
        return (ENV_PREFIX + self.key.replace(".", "__")).upper()

    @property
    def verbatim(self) -> bool:
        """Whether it is a list of which each text is one item, whatever is in it."""
        return self.key in VERBATIM

    def read(self, texts: Sequence[str]) -> Any:
        """The value that the flag has, given with these texts in this order. Raises `ConfigError`."""
        last = texts[-1]
        if self.nullable and last == "null":
            return None
        try:
            if self.kind == "list":
                return [one for text in texts for one in self._listed(text)]
            if self.kind == "map":
                return {key: value for text in texts for key, value in _mapped(text)}
            return json.loads(last) if self.kind == "section" else last
        except ValueError as error:
            raise ConfigError(f"{self.key}: cannot be read: {error} ({_FORMS})") from None

    def _listed(self, text: str) -> Iterable[Any]:
        if self.verbatim:
            return _texts(text) or ([] if text.strip() == "[]" else [text])
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        if '"' in text:
            raise ValueError("texts in quotes are written as a JSON list")
        return text.split(",")

    def from_variable(self, text: str) -> Any:
        """The value of the environment variable: JSON for lists, maps and sections. Raises `ConfigError`."""
        if self.nullable and text == "null":
            return None
        if self.kind not in ("list", "map", "section"):
            return text
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"environment variable {self.variable} must be JSON ({error}), not {text!r}"
            ) from None


@cache
def flags() -> Mapping[str, Flag]:
    """All flags by key, in the order of config.yaml, each section before its settings."""
    found: dict[str, Flag] = {}
    for name, field in Settings.model_fields.items():
        found[name] = _flag(name, field)
        if isinstance(field.default, Section):
            for inner, its in type(field.default).model_fields.items():
                found[f"{name}.{inner}"] = _flag(f"{name}.{inner}", its)
    return found


def _flag(key: str, field: FieldInfo) -> Flag:
    kind, choices = _kind(field.annotation)
    if kind == "section":
        text = " ".join((type(field.default).__doc__ or "").split())
        return Flag(key, kind, text)
    nullable = type(None) in get_args(field.annotation)
    return Flag(key, kind, field.description or "", choices, nullable, field.default)


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return "choice", tuple(map(str, inner))
    if origin in (Union, types.UnionType):
        return next(_kind(one) for one in inner if one is not type(None))
    if origin in (list, tuple):
        return "list", ()
    if origin is dict:
        return "map", ()
    if issubclass(annotation, Section):
        return "section", ()
    kinds: dict[type, Kind] = {bool: "switch", int: "integer", float: "number"}
    return kinds.get(annotation, "text"), ()


def _texts(text: str) -> list[str]:
    """The texts of a JSON list of texts; none if it is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else []


def _mapped(text: str) -> Iterable[tuple[str, Any]]:
    if text.lstrip().startswith(("{", "[")):
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value.items()
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("key without a value")
    return [(key.strip(), value.strip()) for key, _, value in pairs]
