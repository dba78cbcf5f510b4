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


def guided_decoding_params(guide: Guide, bindings: Any) -> Any:
    """A request's guide in the executor's terms."""
    kinds = bindings.GuidedDecodingParams.GuideType
    match guide.kind:
        case "json_object":
            # Not kinds.JSON: that takes any JSON value, also a bare number.
            return bindings.GuidedDecodingParams(kinds.JSON_SCHEMA, '{"type":"object"}')
        case "json_schema":
            return bindings.GuidedDecodingParams(kinds.JSON_SCHEMA, guide.text)
        case "regex":
            return bindings.GuidedDecodingParams(kinds.REGEX, guide.text)
        case "grammar":
            return bindings.GuidedDecodingParams(kinds.EBNF_GRAMMAR, guide.text)
        case "structural_tag":
            return bindings.GuidedDecodingParams(kinds.STRUCTURAL_TAG, guide.text)
