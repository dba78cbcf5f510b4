"""Guided decoding by XGrammar inside the executor: its vocabulary at start, a guide with each request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtllm_openai.errors import ConfigError
from trtllm_openai.generation import Guide, GuideKind

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
    """The text that XGrammar compiles for `guide`."""
    # The executor's own JSON guide accepts any JSON value, also a bare number.
    return '{"type":"object"}' if guide.kind == "json_object" else guide.text


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
