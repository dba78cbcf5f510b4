"""Random texts that an answer's guide allows, read by its parser, hold what was demanded."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from tests.unit.api.served import engine_info
from trtllm_openai.api.forms import AnswerForm, answer_form
from trtllm_openai.chat import ChatFormat, Prompt, plan_tools
from trtllm_openai.chat.parsers import TOOL_FORMATS
from trtllm_openai.chat.thinking import ThinkingState
from trtllm_openai.engines.torch.guides import GuideMatcher, compile_guide, make_tokenizer
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities, StepOutput
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.text.choice import ChoiceDecoder, TextRules
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning, merged
from trtllm_openai.text.tokenizer import Tokenizer

FORMATS = sorted(TOOL_FORMATS)
THINKING = {"harmony": "harmony", "granite": "granite_tags", "gemma4": "gemma4"}
"""The format of thinking beside one of calls, if not `think`."""
MARKS = [
    "<think>",
    "</think>",
    "<|channel>",
    "<channel|>",
    *dict.fromkeys(
        mark
        for name in FORMATS
        for mark in TOOL_FORMATS[name].markers
        if len(mark) > 2 and mark[0] in "<[" and mark[-1] in ">]"
    ),
]
"""Those that can be tokens of their own."""
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
ALL = Capabilities(
    guides=("json_object", "json_schema", "regex", "grammar", "structural_tag"),
    thinking_budget=True,
    channels=True,
)
LONGEST = 400


def closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


VALUES: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "integer", "minimum": 0, "maximum": 99},
    {"enum": ["a", "b c", None]},
    {"type": "string", "maxLength": 4},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    {"$ref": "#/$defs/digit"},
    {"type": "string", "pattern": "^[ab]+$", "minLength": 2},
    {"type": "array", "items": {"enum": ["a", "b c"]}, "minItems": 1},
    {"enum": [1, "x", True]},
]


def random_schema(rng: random.Random) -> dict[str, Any]:
    names = rng.sample(["city", "days", "x", "unit"], rng.randint(0, 3))
    properties = {name: rng.choice(VALUES) for name in names}
    schema = closed(properties, [name for name in names if rng.random() < 0.6])
    return {**schema, "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}}}


def random_tools(rng: random.Random) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "parameters": random_schema(rng)}}
        for name in rng.sample(["get", "get_more", "f", "a.b-c"][: rng.randint(2, 4)], rng.randint(1, 2))
    ]


class Model:
    """A tokenizer of bytes, whose marks are special tokens or are not, and what llguidance makes of it."""

    def __init__(self, *, special: bool) -> None:
        alphabet = {char: byte for byte, char in enumerate(_byte_alphabet())}
        description = {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
            "model": {"type": "BPE", "vocab": alphabet, "merges": []},
        }
        backend = Backend.from_str(json.dumps(description))
        backend.add_special_tokens(["</s>", *(MARKS if special else [])])
        (self.end,) = (token for token in [backend.token_to_id("</s>")] if token is not None)
        self.tokenizer = Tokenizer(backend, eos_token_ids=(self.end,), chat_template=TEMPLATE)
        vocabulary = self.tokenizer.vocabulary()
        self.compiled_for = make_tokenizer(vocabulary, len(vocabulary), (self.end,))

    def chat(self, tool_format: str) -> ChatFormat:
        return ChatFormat(self.tokenizer, tool_format, THINKING.get(tool_format, "think"))

    def walk(self, form: AnswerForm, rng: random.Random, hints: list[str]) -> list[int] | None:
        """Random allowed tokens up to the end, often towards one of `hints`. None: it did not end."""
        assert form.guide is not None
        matcher = compile_guide(self.compiled_for, form.guide, (self.end,), 50.0)
        tokens: list[int] = []
        wanted: list[int] = []
        while len(tokens) < LONGEST:
            allowed = self.allowed(matcher)
            assert len(allowed), matcher.error
            if not wanted and rng.random() < 0.15:
                wanted = self.tokenizer.encode(rng.choice(hints), add_special_tokens=False)
            token = wanted.pop(0) if wanted else -1
            if token not in allowed:
                wanted = []
                ends = [one for one in allowed if one == self.end or chr(one) in ']}"']
                token = int(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
            tokens.append(token)
            if token == self.end:
                return tokens
            assert matcher.accept_token(token), matcher.error
            if matcher.is_terminated():
                return tokens
        return None

    def allowed(self, matcher: GuideMatcher) -> Any:
        size = self.tokenizer.vocab_size
        mask = np.zeros(-(-size // 32), dtype=np.int32)
        matcher.fill_mask(mask)
        return np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=size, bitorder="little"))


def _byte_alphabet() -> list[str]:
    from trtllm_openai.text.tokenizer import BYTE_LEVEL

    return sorted(BYTE_LEVEL, key=BYTE_LEVEL.__getitem__)


@pytest.fixture(scope="module")
def models() -> dict[bool, Model]:
    return {special: Model(special=special) for special in (False, True)}


def form_of(chat: ChatFormat, thinking: ThinkingState = "over", **fields: Any) -> AnswerForm:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})
    tools = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    info = engine_info(capabilities=fields.get("capabilities", ALL))
    return answer_form(body, info, chat, tools, thinking, "auto")


def read(
    model: Model, chat: ChatFormat, tokens: list[int], thinking: ThinkingState, sizes: Any, **fields: Any
) -> list[Event]:
    """The events of the tokens, which come a few at a time."""
    tools = plan_tools(fields.get("tools"), fields.get("tool_choice"), fields.get("parallel_tool_calls"))
    form = form_of(chat, thinking, **fields)
    guided, own = form.demanded, form.own_calls
    parser = chat.output(Prompt("", thinking=thinking), tools, guided=guided, own_calls=own)
    rules = TextRules(visible_special_ids=chat.visible_special_ids(tools))
    decoder = ChoiceDecoder(model.tokenizer, rules, parser)
    events: list[Event] = []
    start = 0
    while start < len(tokens):
        end = start + next(sizes)
        last = end >= len(tokens)
        stop = model.end if last and tokens[-1] == model.end else None
        delta = decoder.push(StepOutput("r", tokens[start:end], "stop" if last else None, stop))
        events += delta.events if parser is not None else [Content(delta.text)]
        start = end
    return [
        CallStart(event.index, "", event.name) if isinstance(event, CallStart) else event
        for event in merged(events)
    ]


def texts(events: list[Event], kind: type[Content | Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def calls_of(events: list[Event]) -> list[tuple[str, str]]:
    found: list[list[str]] = []
    for event in events:
        if isinstance(event, CallStart):
            found.append([event.name, ""])
        elif isinstance(event, CallArguments):
            found[event.index][1] += event.text
    return [(name, arguments) for name, arguments in found]


HINTS = [
    "<think>", "</think>", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[get(", "[f(",
    '{"name": "get"', '{"name": "f"', "[TOOL_CALLS][", "</s>",
]  # fmt: skip


ANALYSIS, NEXT = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"
MORE_HINTS = {
    "harmony": (
        ANALYSIS,
        NEXT,
        f"{ANALYSIS}Hm{NEXT}",
        "<|channel|>final<|message|>",
        "<|channel|>commentary to=functions.get <|constrain|>json<|message|>",
        " to=functions.f<|channel|>commentary json<|message|>",
    ),
    "granite": ("</think><response>", "</response>"),
    "gemma4": ("<|channel>thought", "<channel|>"),
}


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("tool_format", FORMATS)
@pytest.mark.parametrize("case", ["auto", "form", "required", "none"])
def test_random_answers(
    models: dict[bool, Model], tool_format: str, case: str, special: bool, chance: random.Random
) -> None:
    """For random tools, schemas and thinking: streamed = whole, and what is demanded holds."""
    if TOOL_FORMATS[tool_format].interrupts and not special:
        pytest.skip("a call ends thinking by its special token")
    model = models[special]
    chat = model.chat(tool_format)
    seen = {"calls": 0, "forms": 0, "thoughts": 0, "ended": 0}
    for _ in range(14):
        thinking: ThinkingState = chance.choice(["open", "possible", "over"])
        tools = random_tools(chance)
        schema = random_schema(chance)
        response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        fields: dict[str, Any] = {"parallel_tool_calls": chance.random() < 0.5}
        if case != "none":
            fields["tools"] = tools
        if case != "auto":
            fields["response_format"] = response_format
        if case == "required":
            fields["tool_choice"] = "required"
        hints = [*HINTS, *TOOL_FORMATS[tool_format].markers, *MORE_HINTS.get(tool_format, ())]
        tokens = model.walk(form_of(chat, thinking, **fields), chance, hints)
        if tokens is None:
            continue
        seen["ended"] += 1
        whole = read(model, chat, tokens, thinking, iter([len(tokens)]), **fields)
        sizes = iter(lambda: chance.randint(1, 5), 0)
        assert read(model, chat, tokens, thinking, sizes, **fields) == whole
        calls = calls_of(whole)
        content = texts(whole, Content)
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        for name, arguments in calls:
            assert isinstance(json.loads(arguments), dict)
            jsonschema.validate(json.loads(arguments), schemas[name])
        if not fields["parallel_tool_calls"]:
            assert len(calls) <= 1
        if case == "required":
            assert calls
            assert not content
        elif case != "auto" and not calls:
            jsonschema.validate(json.loads(content), schema)
            seen["forms"] += 1
        elif case != "auto":
            assert not content.strip()
        if thinking == "over":
            assert not texts(whole, Reasoning) or case == "auto"
        seen["calls"] += len(calls)
        seen["thoughts"] += bool(texts(whole, Reasoning))
    print(seen)
    assert seen["ended"]
    if case == "required":
        assert seen["calls"]
    if case == "none":
        assert seen["forms"]
        assert seen["thoughts"]


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("thinking", ["open", "possible"])
@pytest.mark.parametrize("form", [{}, {"response_format": {"type": "json_object"}}], ids=["free", "form"])
@pytest.mark.parametrize("tool_format", ["hermes", "harmony"])
def test_a_budget_bounds_thinking(
    models: dict[bool, Model],
    thinking: ThinkingState,
    special: bool,
    form: dict[str, Any],
    tool_format: str,
    chance: random.Random,
) -> None:
    model = models[special]
    chat = model.chat(tool_format)
    begin = chat.reasoning.begin if chat.reasoning is not None else ""
    longest = 0
    for budget in (0, 1, 7, 40):
        fields = {**form, "thinking_token_budget": budget}
        hints = ["</s>"] if thinking == "open" else [begin, "</s>"]
        tokens = model.walk(form_of(chat, thinking, **fields), chance, hints)
        if tokens is None:
            continue
        decoder = ChoiceDecoder(
            model.tokenizer,
            TextRules(visible_special_ids=chat.visible_special_ids(plan_tools(None, None, None))),
            chat.output(Prompt("", thinking=thinking), plan_tools(None, None, None), guided=bool(form)),
        )
        decoder.push(StepOutput("r", tokens, "length"))
        # In the middle of a character the end tag waits for the rest of it. On channels there may be several.
        written = "".join(map(model.tokenizer.token_text, tokens))
        times = 1 + written.count(begin) if chat.channels else 1
        assert decoder.reasoning_tokens <= budget + times * (3 + len(chat.end_of_thinking))
        longest = max(longest, decoder.reasoning_tokens)
    assert longest >= (1 if thinking == "open" else 0)


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 128), ("low", 1024), ("medium", 2048), ("high", None), ("none", None), ("odd", None)],
)
def test_the_budget_of_an_effort(models: dict[bool, Model], effort: str, budget: int | None) -> None:
    """Only where the template does not read it, nobody asks for another one, and the engine can hold it."""
    plain = models[False].chat("hermes")
    reads = ChatFormat(
        Tokenizer(models[False].tokenizer._backend, chat_template=TEMPLATE + "{{ reasoning_effort }}"),
        "hermes",
        "think",
    )

    def found(chat: ChatFormat, **fields: Any) -> int | None:
        guide = form_of(chat, "open", reasoning_effort=effort, **fields).guide
        return guide.thinking.budget if guide is not None and guide.thinking is not None else None

    assert found(plain) == budget
    assert found(plain, thinking_token_budget=7) == 7
    assert found(reads) is None
    assert found(plain, capabilities=Capabilities(guides=ALL.guides)) is None


PLACE = "tools[0].function.parameters"


def test_a_required_call_wins_over_a_form(models: dict[bool, Model]) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    found = form_of(
        models[False].chat("hermes"),
        tools=[tool],
        tool_choice="required",
        response_format={"type": "json_object"},
    )
    assert found.guide is not None
    assert (found.guide.kind, found.guide.param, found.demanded) == ("json_schema", PLACE, True)


STRICT = {"type": "function", "function": {"name": "s", "strict": True, "parameters": {"type": "object"}}}
PLAIN = {"type": "function", "function": {"name": "p", "parameters": {"type": "object", "not": {}}}}


@pytest.mark.parametrize(
    ("tools", "strictness", "held", "optional"),
    [
        ([PLAIN], None, True, True),
        ([PLAIN], "none", False, False),
        ([PLAIN], "all", True, False),
        ([STRICT, PLAIN], "none", True, False),
        ([STRICT, PLAIN], None, True, False),
    ],
)
def test_whose_calls_are_held(
    models: dict[bool, Model], tools: list[Any], strictness: str | None, held: bool, optional: bool
) -> None:
    found = form_of(models[False].chat("hermes"), tools=tools, tool_strict=strictness)
    assert not found.demanded
    assert (found.guide is not None) == held
    if found.guide is not None:
        assert (found.guide.optional, found.guide.endless) == (optional, True)


def test_a_schema_that_cannot_be_enforced(models: dict[bool, Model]) -> None:
    """`auto` leaves out what cannot be enforced, `all` and a strict tool refuse it by its place."""
    model = models[False]
    for strictness, tool in (
        ("all", PLAIN),
        ("none", {"type": "function", "function": {**PLAIN["function"], "strict": True}}),  # type: ignore[dict-item]
    ):
        guide = form_of(model.chat("hermes"), tools=[tool], tool_strict=strictness).guide
        assert guide is not None
        with pytest.raises(InvalidRequest) as caught:
            compile_guide(model.compiled_for, guide, (model.end,), 50.0)
        assert caught.value.param == f"{PLACE}.not"
    lenient = form_of(model.chat("hermes"), tools=[PLAIN]).guide
    assert lenient is not None
    compile_guide(model.compiled_for, lenient, (model.end,), 50.0)


def test_an_engine_without_guides(models: dict[bool, Model]) -> None:
    """Calls go unheld, and a strict tool is named; what is asked for by name is refused."""
    chat = models[False].chat("hermes")
    none = Capabilities()
    found = form_of(chat, tools=[PLAIN, STRICT], capabilities=none)
    assert (found.guide, found.left_out) == (None, ("tools[1].function.strict",))
    for fields, param in (
        ({"tools": [PLAIN], "tool_strict": "all"}, "tool_strict"),
        ({"thinking_token_budget": 3}, "thinking_token_budget"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            form_of(chat, capabilities=none, **fields)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_stop_conditions_beside_held_calls(models: dict[bool, Model]) -> None:
    chat = models[False].chat("hermes")
    one: dict[str, Any] = {"parallel_tool_calls": False, "min_tokens": 3}
    assert form_of(chat, tools=[PLAIN], **one).guide is None
    assert form_of(chat, tools=[PLAIN], min_tokens=3).guide is not None
    with pytest.raises(InvalidRequest) as caught:
        form_of(chat, tools=[STRICT], **one)
    assert caught.value.param == "min_tokens"


@pytest.mark.parametrize("tool_format", ["qwen3_coder", "glm45", "gemma4", "functiongemma"])
@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"anyOf": [{"required": ["a"]}]}, ".anyOf"),
        ({"properties": {"a": {"type": "string", "format": "date"}}}, ".properties.a.format"),
        ({"properties": {"a": {"type": "string", "pattern": "^a|b$"}}}, ".properties.a.pattern"),
        ({"required": ["z"]}, ".required"),
        ({"additionalProperties": {"type": "integer"}}, ".additionalProperties"),
    ],
)
def test_what_a_format_cannot_hold_has_its_place(
    models: dict[bool, Model], tool_format: str, schema: dict[str, Any], place: str
) -> None:
    """For a strict tool it is refused; else it is left out."""
    model = models[False]
    function = {"name": "f", "parameters": {"type": "object", **schema}}
    strict = {"type": "function", "function": {**function, "strict": True}}
    with pytest.raises(InvalidRequest) as caught:
        form_of(model.chat(tool_format), tools=[strict])
    assert (caught.value.param, caught.value.code) == (f"{PLACE}{place}", "unsupported_parameter")
    lenient = form_of(model.chat(tool_format), tools=[{"type": "function", "function": function}]).guide
    assert lenient is not None
    compile_guide(model.compiled_for, lenient, (model.end,), 50.0)
