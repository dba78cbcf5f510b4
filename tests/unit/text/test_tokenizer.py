"""Ids to bytes and back, for byte-level and SentencePiece vocabularies."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from trtllm_openai.errors import CheckpointError
from trtllm_openai.text.tokenizer import Tokenizer

# The demo's vocabulary lacks some control characters and the lead bytes of the planes above: such text is
# lost on its way in.
CHARACTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t")


@given(st.text(CHARACTERS))
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back(demo_tokenizer: Tokenizer, text: str) -> None:
    ids = demo_tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(demo_tokenizer.token_bytes, ids)).decode() == text


def test_same_ids_as_transformers(demo_dir: Path, demo_tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(demo_dir)
    for text in (
        "대한민국의 수도는",
        "Hello  world 123!",
        "👨‍👩‍👧‍👦\n\ttab",
        "<|im_start|>user\nhi<|im_end|>",
    ):
        ids = demo_tokenizer.encode(text, add_special_tokens=True)
        assert ids == theirs(text).input_ids
        assert demo_tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_facts_of_the_demo(demo_tokenizer: Tokenizer) -> None:
    assert demo_tokenizer.vocab_size == 49152
    assert demo_tokenizer.eos_token_ids == (2,)
    assert demo_tokenizer.special_tokens["eos_token"] == "<|im_end|>"
    assert demo_tokenizer.is_special(2)
    assert not demo_tokenizer.is_special(500)
    assert demo_tokenizer.token_bytes(10**6) == b""
    assert demo_tokenizer.token_text(demo_tokenizer.encode("é", add_special_tokens=False)[0]) in (
        "é",
        "\ufffd",
    )


def test_a_character_outside_the_byte_level_alphabet_is_text() -> None:
    """Of Latin-1 too: no byte is taken for a character, nor a character for a byte."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    texts = [chr(code) for code in range(1, 0x180)] + ["Ġa", "é\x85", "가Ġ"]
    backend = tokenizers.Tokenizer(models.BPE({text: index for index, text in enumerate(texts)}, []))
    backend.decoder = decoders.ByteLevel()
    found = Tokenizer(backend).vocabulary()
    assert sorted(found[index] for index, text in enumerate(texts) if text in alphabet) == [
        bytes([byte]) for byte in range(256)
    ]
    outside = [index for index, text in enumerate(texts) if text not in alphabet and len(text) == 1]
    assert [found[index].decode() for index in outside] == [texts[index] for index in outside]
    assert found[-3:] == [b" a", b"\xe9" + "\x85".encode(), "가 ".encode()]


def test_sentencepiece_style_vocabulary() -> None:
    vocab = {"<unk>": 0, "\u2581Hi": 1, "\u2581there": 2, "<0xEA>": 3, "<0xB0>": 4, "<0x80>": 5, "x": 6}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = Tokenizer(backend)
    assert b"".join(map(tokenizer.token_bytes, [1, 2, 3, 4, 5, 6])).decode() == " Hi there가x"


def test_template_sources(demo_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((demo_dir / "tokenizer.json").read_bytes())
    assert Tokenizer.load(tmp_path).chat_template is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": named, "bos_token": {"content": "<s>"}})
    )
    assert Tokenizer.load(tmp_path).chat_template == "D"
    assert Tokenizer.load(tmp_path).special_tokens == {"bos_token": "<s>"}
    (tmp_path / "chat_template.jinja").write_text("J")
    assert Tokenizer.load(tmp_path).chat_template == "J"
    (tmp_path / "mine.jinja").write_text("M")
    assert Tokenizer.load(tmp_path, str(tmp_path / "mine.jinja")).chat_template == "M"


def test_errors_name_the_file(tmp_path: Path, demo_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer directory"):
        Tokenizer.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"nothing\.jinja"):
        Tokenizer.load(demo_dir, str(tmp_path / "nothing.jinja"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
