"""Guided decoding by XGrammar inside the executor: its vocabulary at start, a guide with each request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtllm_openai.errors import ConfigError
from trtllm_openai.generation import Guide, GuideKind, Thinking

Part = dict[str, Any]

GUIDES: tuple[GuideKind, ...] = ("json_object", "json_schema", "regex", "grammar", "structural_tag")


def guided_decoding_config(tokenizer_dir: Path, eos_token_ids: tuple[int, ...], bindings: Any) -> Any:
    """XGrammar needs every token as the tokenizer writes it, by id, and the tokenizer's own description."""
    import tokenizers

    path = tokenizer_dir / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"tensorrt_llm.guided_decoding: it needs a tokenizer.json, and {tokenizer_dir} has none"
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    by_id = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    return bindings.GuidedDecodingConfig(
        backend=bindings.GuidedDecodingConfig.GuidedDecodingBackend.XGRAMMAR,
        encoded_vocab=[token for token, _ in by_id],
        tokenizer_str=tokenizer.to_str(),
        stop_token_ids=list(eos_token_ids),
    )


def guide_text(guide: Guide) -> str:
    """The text that XGrammar compiles for `guide`, which comes from `as_compiled`."""
    # The executor's own JSON guide accepts any JSON value, also a bare number.
    return '{"type":"object"}' if guide.kind == "json_object" else guide.text


def as_compiled(guide: Guide) -> Guide:
    """`guide` as XGrammar can compile it: what follows thinking is a part of a structural tag.

    XGrammar finds special tokens by their text, so that marks need no ids.
    """
    if guide.thinking is None and guide.kind != "structural_tag":
        return guide
    form = _part(guide)
    if guide.thinking is not None and not guide.thinking.within:
        form = _after_thinking(form, guide.thinking)
    text = json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False, separators=(",", ":"))
    return Guide("structural_tag", text, guide.param, endless=guide.endless, optional=guide.optional)


def _part(guide: Guide) -> Part:
    """The guide as a part of a structural tag."""
    match guide.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(guide.text)}
        case "regex":
            return {"type": "regex", "pattern": guide.text}
        case "grammar":
            return {"type": "grammar", "grammar": guide.text}
        case "structural_tag":
            form = json.loads(guide.text)
            part: Part = _accepted(form.get("format") if isinstance(form, dict) else form)
            return part


def _after_thinking(form: Any, thinking: Thinking) -> Part:
    """`form` after thinking. Where that may be left out, both are written: an option must not be empty."""
    begin = "" if thinking.opened else thinking.begin
    thought = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": thinking.end}
    space = {"type": "regex", "pattern": r"[ \t\r\n]{0,8}"}
    elements = [thought, space, form]
    if thinking.answer:
        elements[2:] = [_optional(thinking.answer), space, form, _optional(thinking.answer_end)]
    after = {"type": "sequence", "elements": elements}
    return after if thinking.opened else {"type": "or", "elements": [after, form]}


def _optional(text: str) -> Part:
    return {"type": "grammar", "grammar": f"root ::= {json.dumps(text)}?"}


def _accepted(part: Any) -> Any:
    """A structural tag as XGrammar 0.1.32 takes it.

    Of the options of an `or`, all or none may go on for any number of calls; where they differ, a list of
    calls becomes one of them. Of several rules for one string the first holds.
    """
    if isinstance(part, list):
        return [_accepted(one) for one in part]
    if not isinstance(part, dict) or part.get("type") == "json_schema":
        return part
    if part.get("type") == "regex":
        return {key: value for key, value in part.items() if key != "also"}
    part = {key: _accepted(value) for key, value in part.items()}
    options = part.get("elements")
    if part.get("type") != "or" or not isinstance(options, list) or not all(map(_is_object, options)):
        return part
    lists = [one for one in options if one.get("type") == "tags_with_separator"]
    if not lists or len(lists) == len(options):
        return part
    calls = [tag for one in lists for tag in one.get("tags", ())]
    return {**part, "elements": [*calls, *(one for one in options if one not in lists)]}


def _is_object(part: Any) -> bool:
    return isinstance(part, dict)


def guided_decoding_params(guide: Guide, bindings: Any) -> Any:
    """`guide` as the executor's `GuidedDecodingParams`."""
    types = bindings.GuidedDecodingParams.GuideType
    by_kind: dict[GuideKind, Any] = {
        "json_object": types.JSON_SCHEMA,
        "json_schema": types.JSON_SCHEMA,
        "regex": types.REGEX,
        "grammar": types.EBNF_GRAMMAR,
        "structural_tag": types.STRUCTURAL_TAG,
    }
    return bindings.GuidedDecodingParams(by_kind[guide.kind], guide_text(guide))
