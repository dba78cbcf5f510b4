"""The input of a custom tool, whatever pieces its JSON comes in."""

import json
import random

import pytest

from trtllm_openai.api.responses.custom_input import CustomInput


def read(pieces: list[str]) -> str:
    reader = CustomInput()
    return "".join([*map(reader.push, pieces), reader.finish()])


def cut(text: str, source: random.Random) -> list[str]:
    pieces = []
    while text:
        size = source.randint(1, 7)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


TEXTS = ["", "ls -l", 'say "hi"\n\ttwice \\ /', "안녕 🙂 \u0000", "*** Begin Patch\n+a\n*** End Patch\n" * 5]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_string_is_decoded(text: str, ascii_only: bool) -> None:
    source = random.Random(7)
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    assert read([arguments]) == text
    assert read(list(arguments)) == text
    for _ in range(20):
        assert read(cut(arguments, source)) == text


def test_text_comes_as_soon_as_it_is_certain() -> None:
    reader = CustomInput()
    said = [reader.push(piece) for piece in ['{"in', 'put": "ab', "\\", "nc\\u00", 'e9d"', "}"]]
    assert said == ["", "ab", "", "\nc", "éd", ""]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "cut', "cut"),
        ('{"input": "cut\\', "cut"),
        ('{"input": "half \\ud83d", "x": 1}', "half ?"),
        ('{"input": "half \\ud83dx"}', "half ?x"),
        ('{"input": "no \\uzz escape"}', "no \\uzz escape"),
        ('{"other": 1, "input": "later"}', "later"),
        ('"bare"', "bare"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"command": "ls"}', '{"command": "ls"}'),
        ("not JSON" * 20, "not JSON" * 20),
        ("", ""),
    ],
)
def test_other_forms(arguments: str, text: str) -> None:
    source = random.Random(11)
    assert read([arguments]) == text
    for _ in range(20):
        assert read(cut(arguments, source)) == text
