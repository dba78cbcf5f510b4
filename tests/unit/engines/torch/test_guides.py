"""Guided decoding in the torch engine: what a guide promises holds, beside sequences without one."""

import dataclasses
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.unit.engines.torch.conftest import VOCAB
from tests.unit.engines.torch.test_guide_trial import ENDLESS
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch import loader
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.guides import GuideMatcher, compile_guide, make_tokenizer, try_guide
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.sizes import make_limits
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams, StepOutput, Thinking
from trtllm_openai.text.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(demo_dir: Path, demo_tokenizer: Tokenizer) -> TorchEngine:
    settings = TorchSettings(dtype="float32", device="cpu", max_seq_len=512, max_batch_size=8)
    return load(demo_dir, settings, lambda *_: None, demo_tokenizer.vocabulary)


def run(engine: TorchEngine, requests: list[GenerationRequest]) -> dict[str, list[StepOutput]]:
    """Step until every request has ended."""
    found: dict[str, list[StepOutput]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    open_requests, deadline = set(found), time.monotonic() + 120
    while open_requests:
        assert time.monotonic() < deadline
        for output in engine.step(0.05):
            found[output.request_id].append(output)
            if output.finish_reason is not None:
                open_requests.remove(output.request_id)
    return found


def ask(tokenizer: Tokenizer, request_id: str, guide: Guide | None, **sampling: object) -> GenerationRequest:
    params = SamplingParams(**{"max_tokens": 300, "seed": 3, **sampling})  # type: ignore[arg-type]
    prompt = tokenizer.encode("Tell me about a person.\n", add_special_tokens=False)
    return GenerationRequest(request_id, prompt, params, guide=guide)


def text(tokenizer: Tokenizer, outputs: list[StepOutput]) -> str:
    return tokenizer.decode([token for output in outputs for token in output.token_ids])


def test_every_kind_of_guide_in_one_batch(engine: TorchEngine, demo_tokenizer: Tokenizer) -> None:
    tag = {
        "type": "structural_tag",
        "format": {
            "type": "tag",
            "begin": "<b>",
            "content": {"type": "regex", "pattern": "[a-z]+"},
            "end": "</b>",
        },
    }
    guides = {
        "json": Guide("json_object"),
        "schema": Guide("json_schema", json.dumps(SCHEMA)),
        "regex": Guide("regex", r"\d{3}-\d{4}"),
        "grammar": Guide("grammar", 'root ::= ("ha" | "hi")+ "!"'),
        "tag": Guide("structural_tag", json.dumps(tag)),
    }
    free = ask(demo_tokenizer, "alone", None, max_tokens=20)
    alone = text(demo_tokenizer, run(engine, [free])["alone"])
    requests = [ask(demo_tokenizer, name, guide) for name, guide in guides.items()]
    found = run(engine, [*requests, ask(demo_tokenizer, "free", None, max_tokens=20)])
    texts = {name: text(demo_tokenizer, outputs) for name, outputs in found.items()}
    assert all(found[name][-1].finish_reason == "stop" for name in guides)
    assert isinstance(json.loads(texts["json"]), dict)
    jsonschema.validate(json.loads(texts["schema"]), SCHEMA)
    assert re.fullmatch(r"\d{3}-\d{4}", texts["regex"])
    assert re.fullmatch("(ha|hi)+!", texts["grammar"])
    assert re.fullmatch("<b>[a-z]+</b>", texts["tag"])
    assert texts["free"] == alone


def test_a_guide_holds_against_bias_and_without_eos(engine: TorchEngine, demo_tokenizer: Tokenizer) -> None:
    wrong = demo_tokenizer.encode("zzz", add_special_tokens=False)
    request = ask(
        demo_tokenizer,
        "x",
        Guide("regex", "(yes|no)"),
        logit_bias=dict.fromkeys(wrong, 100.0),
        ignore_eos=True,
        temperature=2.0,
    )
    outputs = run(engine, [request])["x"]
    assert text(demo_tokenizer, outputs) in ("yes", "no")
    assert outputs[-1].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text(engine: TorchEngine, demo_tokenizer: Tokenizer) -> None:
    guide = Guide("json_schema", json.dumps(SCHEMA))
    first, second = (
        text(demo_tokenizer, run(engine, [ask(demo_tokenizer, name, guide)])[name]) for name in "ab"
    )
    assert first == second


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (Guide("regex", "(a", "p"), "unclosed group"),
        (Guide("grammar", "root ::= nowhere", "p"), "nowhere"),
        (Guide("json_schema", '{"$ref": "#/nowhere"}', "p"), "nowhere"),
        (Guide("structural_tag", '{"type": "structural_tag"}', "", ((".format", "p"),)), "missing"),
        (Guide("grammar", "root ::= root", "p"), "no text satisfies it"),
        (Guide("json_schema", '{"$ref": "#"}', "p"), "no text satisfies it"),
        (Guide("json_schema", "false", "p"), "no value satisfies"),
        (Guide("grammar", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "p"), "nested too deeply"),
    ],
)
def test_a_bad_guide_is_refused_by_its_name(
    engine: TorchEngine, demo_tokenizer: Tokenizer, guide: Guide, reason: str
) -> None:
    found = run(engine, [ask(demo_tokenizer, "bad", guide), ask(demo_tokenizer, "good", None, max_tokens=3)])
    (refusal,) = found["bad"]
    assert (refusal.finish_reason, refusal.error_param) == ("error", "p")
    assert refusal.error_code is not None
    assert reason in (refusal.error or "")
    assert found["good"][-1].finish_reason == "length"


def test_compiling_delays_nobody_else_and_can_be_given_up(
    engine: TorchEngine, demo_tokenizer: Tokenizer
) -> None:
    engine.submit(ask(demo_tokenizer, "slow", ENDLESS))
    engine.submit(ask(demo_tokenizer, "quick", None, max_tokens=3))
    ended: list[str] = []
    while "quick" not in ended:
        ended += [output.request_id for output in engine.step(0.01) if output.finish_reason]
    assert "slow" not in ended
    engine.abort("slow")
    assert [(output.request_id, output.finish_reason) for output in engine.step(0.01)] == [("slow", "abort")]
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.kv_blocks_used) == (0, 0, 0)


def test_without_a_vocabulary_nothing_is_promised(demo_dir: Path) -> None:
    settings = TorchSettings(dtype="float32", device="cpu", max_seq_len=64, max_batch_size=1)
    assert load(demo_dir, settings, lambda *_: None).info.capabilities.guides == ()


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"items": {"not": {}}}}}, ".properties.a.items.not"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "uniqueItems": True}]}, ".anyOf[1].uniqueItems"),
        ({"$defs": {"x": {"contains": {}}}, "$ref": "#/$defs/x"}, ".$defs.x.contains"),
        ({"if": {}, "then": {"type": "string"}}, ".if"),
    ],
)
def test_a_keyword_that_cannot_be_enforced_is_refused_by_its_place(
    engine: TorchEngine, demo_tokenizer: Tokenizer, schema: object, path: str
) -> None:
    (refusal,) = run(engine, [ask(demo_tokenizer, "x", Guide("json_schema", json.dumps(schema), "p"))])["x"]
    assert (refusal.finish_reason, refusal.error_param) == ("error", f"p{path}")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": '^a"\\\\\\t$'},
        {"type": "string", "minLength": 4, "maxLength": 9},
        {"type": "object", "required": ["k"], "maxProperties": 2},
        {"type": "array", "maxItems": 3, "items": {"type": "integer"}, "minItems": 1},
        {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"], "maxProperties": 1}],
         "type": "object"},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
         "anyOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]}, {"required": ["a"]}]},
        {"type": "array", "uniqueItems": False, "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    ],
)  # fmt: skip
def test_random_walks_through_the_masks_give_valid_documents(
    demo_tokenizer: Tokenizer, schema: dict[str, object]
) -> None:
    vocabulary = demo_tokenizer.vocabulary()
    tokenizer = make_tokenizer(vocabulary, len(vocabulary), demo_tokenizer.eos_token_ids)
    guide = Guide("json_schema", json.dumps(schema), "p")
    complete = 0
    for seed in range(30):
        matcher = compile_guide(tokenizer, guide, demo_tokenizer.eos_token_ids, 5.0)
        tokens = walk(matcher, len(vocabulary), random.Random(seed))
        if tokens is not None:
            complete += 1
            jsonschema.validate(json.loads(b"".join(vocabulary[token] for token in tokens)), schema)
    assert complete >= 5


def walk(
    matcher: GuideMatcher, vocab_size: int, rng: random.Random, *, broken: bool = False
) -> list[int] | None:
    """Random allowed tokens up to the end of the text; None if it has no end within 200 tokens.

    `broken`: the guide is expected to fail, which ends the walk.
    """
    end = matcher._end_ids[0]
    tokens: list[int] = []
    while len(tokens) < 200:
        mask = np.zeros(-(-vocab_size // 32), dtype=np.int32)
        matcher.fill_mask(mask)
        if broken and matcher.error:
            return None
        assert not matcher.error
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=vocab_size, bitorder="little"))
        token = end if end in allowed else int(rng.choice(allowed))
        if token == end:
            return tokens
        tokens.append(token)
        assert matcher.accept_token(token) or broken
        if matcher.is_terminated():
            return tokens
    return None


def test_every_end_token_is_allowed_where_the_text_may_end(demo_tokenizer: Tokenizer) -> None:
    vocabulary = demo_tokenizer.vocabulary()
    ends = (2, 0, 40)
    tokenizer = make_tokenizer(vocabulary, len(vocabulary), ends)
    matcher = compile_guide(tokenizer, Guide("regex", "a+", "p"), ends, 5.0)
    (letter,) = demo_tokenizer.encode("a", add_special_tokens=False)
    for count in (0, 3):
        mask = np.zeros(-(-len(vocabulary) // 32), dtype=np.int32)
        matcher.fill_mask(mask)
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
        assert allowed[[0, 2, 40]].sum() == count
        assert allowed[letter]
        matcher.accept_token(letter)


def test_a_guide_that_nothing_satisfies_is_refused_beside_thinking_too(demo_tokenizer: Tokenizer) -> None:
    vocabulary = demo_tokenizer.vocabulary()
    tokenizer = make_tokenizer(vocabulary, len(vocabulary), demo_tokenizer.eos_token_ids)
    guide = Guide("grammar", "root ::= root", "p", thinking=Thinking("<think>", "</think>", (5,)))
    with pytest.raises(InvalidRequest) as caught:
        try_guide(tokenizer, guide, demo_tokenizer.eos_token_ids, 5.0)
    assert caught.value.param == "p"


def test_a_token_that_is_not_allowed_ends_the_guide_with_an_error(demo_tokenizer: Tokenizer) -> None:
    vocabulary = demo_tokenizer.vocabulary()
    tokenizer = make_tokenizer(vocabulary, len(vocabulary), demo_tokenizer.eos_token_ids)
    matcher = compile_guide(tokenizer, Guide("regex", "a", "p"), demo_tokenizer.eos_token_ids, 5.0)
    (wrong,) = demo_tokenizer.encode("z", add_special_tokens=False)
    assert not matcher.accept_token(wrong)
    assert matcher.error
    mask = np.full(-(-len(vocabulary) // 32), -1, dtype=np.int32)
    matcher.fill_mask(mask)
    assert not mask.any()


def test_a_guide_that_takes_too_long_for_its_tokens_ends(demo_tokenizer: Tokenizer) -> None:
    vocabulary = demo_tokenizer.vocabulary()
    tokenizer = make_tokenizer(vocabulary, len(vocabulary), demo_tokenizer.eos_token_ids)
    guide = Guide("grammar", 'root ::= a a a a a a a a "."\na ::= [a-z]* a | "" | a a')
    matcher = compile_guide(tokenizer, guide, demo_tokenizer.eos_token_ids, 0.001)
    assert walk(matcher, len(vocabulary), random.Random(1), broken=True) is None
    assert "ms for a token" in matcher.error
    assert 0.1 < matcher.seconds < 5


def test_a_thinking_budget_survives_a_preemption(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that are computed again, as on a GPU, are not counted again."""
    monkeypatch.setattr(
        loader, "make_limits", lambda *given: dataclasses.replace(make_limits(*given), exact=False, tile=1)
    )
    settings = TorchSettings(dtype="float32", device="cpu", max_seq_len=256, kv_cache_tokens=20 * 16)
    vocabulary = [b"", b"", b"", *(bytes([byte]) for byte in range(256)), *[b""] * (VOCAB - 259)]
    tight = load(checkpoint("llama"), settings, lambda *_: None, lambda: vocabulary)
    end = tuple(byte + 3 for byte in b"</think>")
    text = json.dumps({"type": "structural_tag", "format": {"type": "any_text"}})
    thinking = Thinking("<think>", "</think>", end, opened=True, budget=60)
    guide = Guide("structural_tag", text, thinking=thinking, endless=True)
    sampling = SamplingParams(max_tokens=90, seed=3, ignore_eos=True)
    found = run(
        tight, [GenerationRequest(name, [5, ord(name)] * 20, sampling, guide=guide) for name in "abcd"]
    )
    assert tight.stats().preemptions > 0
    for outputs in found.values():
        tokens = [token for output in outputs for token in output.token_ids]
        at = next(place for place in range(len(tokens)) if tuple(tokens[place : place + len(end)]) == end)
        assert 60 <= at <= 63, "in the middle of a character the end tag waits for the rest of it"
