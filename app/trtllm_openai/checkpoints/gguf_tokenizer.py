"""Converts the tokenizer of a GGUF file to tokenizer.json and tokenizer_config.json.

GGUF gives only the name of the pre-tokenizer ("tokenizer.ggml.pre"); the definitions here come from the
models' original tokenizer.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtllm_openai.errors import CheckpointError

CONTROL = 3
USER_DEFINED = 4

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")

DIGITS = {"type": "Digits", "individual_digits": True}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


GPT2 = _byte_level(use_regex=True)
SMOLLM = _sequence(DIGITS, _byte_level(use_regex=True))
LLAMA3 = _sequence(_split(LLAMA3_REGEX), _byte_level(use_regex=False))
QWEN2 = _sequence(_split(QWEN2_REGEX), _byte_level(use_regex=False))

PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt-2": GPT2,
    "default": GPT2,
    "smollm": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
}


def tokenizer_files(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of tokenizer.json and tokenizer_config.json. Raises `CheckpointError`."""
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(
            f"The GGUF file has a tokenizer of kind {model!r}, but only byte-level BPE ('gpt2') can be "
            "converted: use the model's Hugging Face directory instead."
        )
    pre = fields.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"The GGUF file has an unknown pre-tokenizer, {pre!r} (known: "
            f"{', '.join(PRE_TOKENIZERS)}): use the model's Hugging Face directory instead."
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    special = _special_tokens(fields, tokens)
    add_bos = bool(fields.get("tokenizer.ggml.add_bos_token", PRE_TOKENIZERS[pre] is LLAMA3))
    add_bos = add_bos and "bos_token" in special
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, types),
        "normalizer": {"type": "NFC"} if PRE_TOKENIZERS[pre] is QWEN2 else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": _prepend(special["bos_token"], tokens) if add_bos else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": PRE_TOKENIZERS[pre] is LLAMA3,
            "vocab": {token: index for index, token in reversed(list(enumerate(tokens)))},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": add_bos,
        "model_max_length": fields["llama.context_length"],
        **special,
    }
    template = _chat_template(fields)
    if template:
        config["chat_template"] = template
    return tokenizer, config


def end_token_ids(fields: Mapping[str, Any]) -> list[int]:
    """Ids of the end-of-sequence, end-of-turn and end-of-message tokens."""
    keys = ("eos", "eot", "eom")
    ids = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
    return list(dict.fromkeys(token for token in ids if token is not None))


def _special_tokens(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: tokens[index] for name, index in ids.items() if index is not None and index < len(tokens)}


def _added_tokens(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]


def _prepend(token: str, tokens: list[str]) -> dict[str, Any]:
    """Post-processor that prepends `token`."""
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, {"SpecialToken": {"id": token, "type_id": 1}}, second],
        "special_tokens": {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}},
    }


def _chat_template(fields: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    default: str | None = fields.get("tokenizer.chat_template")
    names = fields.get("tokenizer.chat_templates") or []
    if not names or default is None:
        return default
    named = {name: fields.get(f"tokenizer.chat_template.{name}") for name in names}
    templates = {"default": default, **{name: text for name, text in named.items() if text}}
    return [{"name": name, "template": text} for name, text in templates.items()]
