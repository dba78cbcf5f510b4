"""The model's tokenizer: text to ids, ids to bytes.

tokenizer.json is read directly, so an HTTP worker imports neither torch nor transformers. Only a checkpoint
without one (SentencePiece's tokenizer.model) is converted by transformers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.decoders import Decoder

from trtllm_openai.checkpoints.metadata import read_eos_token_ids, read_optional_json
from trtllm_openai.errors import CheckpointError
from trtllm_openai.text.pieces import PieceEncoder, encode_whole

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SPACE_MARK = "\u2581"
"""A space, in SentencePiece vocabularies."""


class Tokenizer:
    """One model's tokenizer. `encode` is thread-safe."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token_ids: tuple[int, ...] = (),
        special_tokens: dict[str, str] | None = None,
        chat_template: str | None = None,
        template_file: str = "",
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._pieces = PieceEncoder.of(backend)
        self.eos_token_ids = eos_token_ids
        self.special_tokens = special_tokens or {}
        """Text of each special token by its name in chat templates (`bos_token`, `eos_token` …)."""
        self.chat_template = chat_template
        """Source of the Jinja template; None if the model has none."""
        self.template_file = template_file
        """The file that it is in, for messages; empty if there is none."""
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self._added = {index: token.content.encode() for index, token in added.items()}
        self._special = frozenset(index for index, token in added.items() if token.special)
        self._from_byte_level = _is_byte_level(backend.decoder)
        self._bytes: dict[int, bytes] = {}
        self.whole_texts = WholeTexts(self)
        """Text of every token that can be decoded without its neighbours."""

    @classmethod
    def load(cls, directory: Path, chat_template: str | None = None) -> Tokenizer:
        """Read the tokenizer of a checkpoint directory. `chat_template`: a file that replaces its template.

        Raises `CheckpointError`.
        """
        if not directory.is_dir():
            raise CheckpointError(f"There is no tokenizer directory {directory}.")
        config = read_optional_json(directory / "tokenizer_config.json")
        backend = _backend(directory)
        special = _special_tokens({**read_optional_json(directory / "special_tokens_map.json"), **config})
        eos_token_ids = read_eos_token_ids(directory)
        template, file = _chat_template(directory, config, chat_template)
        if not eos_token_ids and (eos := backend.token_to_id(special.get("eos_token", ""))) is not None:
            eos_token_ids = (eos,)  # a directory with a tokenizer alone, e.g. beside an engine
        return cls(
            backend,
            eos_token_ids=eos_token_ids,
            special_tokens=special,
            chat_template=template,
            template_file=file,
        )

    def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> list[int]:
        """Token ids. Special tokens written out in `text` become their ids.

        Pieces of the text are cached, separately for each `salt`.
        """
        if self._pieces is not None and not add_special_tokens:
            return self._pieces.encode(text, salt)
        return encode_whole(self._backend, text, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, special: bool = False) -> str:
        """Text of a complete sequence, `special` tokens left out by default. Streams: `text.detokenizer`."""
        pieces = (self.token_bytes(token) for token in ids if special or token not in self._special)
        return b"".join(pieces).decode("utf-8", "replace")

    def ids_of(self, texts: Iterable[str]) -> frozenset[int]:
        """Ids of those of `texts` that are single tokens of the vocabulary."""
        ids = (self._backend.token_to_id(text) for text in texts)
        return frozenset(index for index in ids if index is not None)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens: markup of the model rather than text."""
        return self._special

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a special token."""
        return token_id in self._special

    def token_text(self, token_id: int) -> str:
        """The token's text, with U+FFFD for incomplete characters."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The token's UTF-8 bytes, possibly an incomplete character; empty for an id without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._make_bytes(token_id)
        return known

    def vocabulary(self) -> list[bytes]:
        """Bytes of every token, indexed by id; empty for special tokens."""
        return [
            b"" if index in self._special else self._make_bytes(index) for index in range(self.vocab_size)
        ]

    def _make_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._from_byte_level:
            return _from_byte_level(token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return int(token[3:5], 16).to_bytes()
        return token.replace(SPACE_MARK, " ").encode()


class WholeTexts(dict[int, str | None]):
    """Lazily filled cache of token texts; None for special tokens and for incomplete characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str | None:
        text: str | None = None
        if not self._tokenizer.is_special(token_id):
            with contextlib.suppress(UnicodeDecodeError):
                text = self._tokenizer.token_bytes(token_id).decode()
        self[token_id] = text
        return text


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable bytes map to themselves, others follow U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


BYTE_LEVEL = _byte_level_alphabet()


BYTES_OF_LEVEL: dict[int, int | str] = {
    **dict.fromkeys(range(256), "\uffff"),  # no character of the alphabet, and none of Latin-1
    **{ord(char): byte for char, byte in BYTE_LEVEL.items()},
}
"""For `str.translate`: a character of the alphabet to that of Latin-1 which has its byte."""


def _from_byte_level(token: str) -> bytes:
    """The bytes of a token of byte-level BPE; a character outside the alphabet is text that bypassed it."""
    try:
        return token.translate(BYTES_OF_LEVEL).encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(
            BYTE_LEVEL[char].to_bytes() if char in BYTE_LEVEL else char.encode() for char in token
        )


def _is_byte_level(decoder: Decoder | None) -> bool:
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    return any(part.get("type") == "ByteLevel" for part in [state, *state.get("decoders", [])])


def _backend(directory: Path) -> tokenizers.Tokenizer:
    path = directory / "tokenizer.json"
    if path.is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}.") from None
    from transformers import AutoTokenizer  # imports torch: only where there is no tokenizer.json

    try:
        converted: Any = AutoTokenizer.from_pretrained(directory, use_fast=True)
        backend: tokenizers.Tokenizer = converted.backend_tokenizer
    except Exception as error:  # tokenizer classes of transformers raise all kinds of exceptions
        raise CheckpointError(f"{directory} has no readable tokenizer: {error}.") from None
    return backend


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in SPECIAL_NAMES:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _chat_template(directory: Path, config: dict[str, Any], override: str | None) -> tuple[str | None, str]:
    """Source and file of the template: of the setting, chat_template.jinja or tokenizer_config.json."""
    if override is not None:
        try:
            return Path(override).expanduser().read_text(encoding="utf-8"), override
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"The chat template {override} cannot be read: {error}.") from None
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8"), str(own)
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = {item["name"]: item["template"] for item in template}.get("default")
    if not isinstance(template, str):
        return None, ""
    return template, f"{directory / 'tokenizer_config.json'} (chat_template)"
