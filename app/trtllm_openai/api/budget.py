"""The budget of a request: how much of everything one body may hold, checked before any work is done for it.

All limits are settings (`limits.max_…`), and all are checked here, on the parsed JSON and before validation.
A check looks at lengths; the one that walks the tree ends at its limit and runs only for bodies whose commas
and brackets could exceed it. Values of a wrong type are left to validation, which stops at the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo
from trtllm_openai.generation.build import check_context

MAX_FIELDS = 256
"""Maximum number of fields of a body. OpenAI's endpoints and their extensions have some 60."""

Body = dict[str, Any]

FLAT = frozenset(
    {
        "prompt",
        "tokens",
        "stop",
        "stop_sequences",
        "stop_token_ids",
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
    }
)
"""Fields without nesting, which have limits of their own or cost little for each element."""


def check_budget(
    body: Body, limits: LimitSettings, containers: int, commas: int, info: EngineInfo | None = None
) -> None:
    """Raise `InvalidRequest`, with the setting in its message, for the first field that exceeds a limit.

    `containers`, `commas`: at least as many as the body has arrays and objects, and commas. A body has at
    most as many values as both together and one more. `info`: of the engine, if one is ready.
    """
    if len(body) > MAX_FIELDS:
        raise too_many_fields(len(body))
    for name, check in _CHECKS:
        value = body.get(name)
        if value is not None:
            check(name, value, body, limits)
    if info is not None and "prompt" in body:
        _check_context(body, info)
    values = containers + commas
    if values > limits.max_message_parts:
        for name in ("messages", "input"):
            if isinstance(body.get(name), list):
                _check_parts(name, body[name], limits)
    if values > limits.max_json_values:
        _check_values(body, limits, containers)


def too_many_fields(count: int) -> InvalidRequest:
    """The error of a body with so many fields."""
    return InvalidRequest(f"The body has {count} fields; at most {MAX_FIELDS} are accepted.")


def too_many_values(name: str, limits: LimitSettings) -> InvalidRequest:
    """The error of a body that has too many values with those of this field."""
    return InvalidRequest(
        f"The body has more than {limits.max_json_values} JSON values up to the end of '{name}' "
        "(the setting limits.max_json_values).",
        name,
    )


def check_messages(count: int, limits: LimitSettings, param: str) -> None:
    """Raise `InvalidRequest` for too many messages, those of earlier responses included."""
    if count > limits.max_messages:
        raise _exceeded(param, count, "messages", limits.max_messages, "max_messages")


def check_tools(count: int, limits: LimitSettings, param: str = "tools") -> None:
    """Raise `InvalidRequest` for too many tools, those inside namespaces included."""
    if count > limits.max_tools:
        raise _exceeded(param, count, "tools", limits.max_tools, "max_tools")


def _prompt(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    prompts = _prompts(value)
    if prompts > limits.max_choices:
        raise _exceeded(name, prompts, "prompts", limits.max_choices, "max_choices")


def _choices(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    choices = _prompts(body.get("prompt")) * value if isinstance(value, (int, float)) else 1
    if choices > limits.max_choices:
        raise InvalidRequest(
            f"prompts x {name} must be at most {limits.max_choices}, not {choices:.0f} (the setting "
            "limits.max_choices).",
            name,
        )


def _check_context(body: Body, info: EngineInfo) -> None:
    """Refuse token ids that do not fit into the context before each of them is looked at."""
    prompt = body["prompt"]
    if not isinstance(prompt, list) or body.get("truncate_prompt_tokens") is not None:
        return
    for ids in prompt if prompt and isinstance(prompt[0], list) else [prompt]:
        if isinstance(ids, list) and len(ids) > info.max_seq_len and isinstance(ids[0], int):
            check_context(info, len(ids), None, "prompt")


def _messages(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list):
        check_messages(len(value), limits, name)


def _system(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list) and len(value) > limits.max_message_parts:
        raise _exceeded(name, len(value), "parts", limits.max_message_parts, "max_message_parts")


def _tools(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list):
        check_tools(len(value), limits, name)


def _stop(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list) and len(value) > limits.max_stop_strings:
        raise _exceeded(name, len(value), "stop strings", limits.max_stop_strings, "max_stop_strings")
    _check_length(name, value, limits)


def _bad_words(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list) and len(value) > limits.max_bad_words:
        raise _exceeded(name, len(value), "words", limits.max_bad_words, "max_bad_words")
    _check_length(name, value, limits)


def _check_length(name: str, value: Any, limits: LimitSettings) -> None:
    texts = value if isinstance(value, list) else [value]
    length = sum(len(text) for text in texts if isinstance(text, str))
    if length > limits.max_stop_length:
        raise _exceeded(name, length, "characters", limits.max_stop_length, "max_stop_length")


def _stop_token_ids(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if isinstance(value, list) and len(value) > limits.max_stop_token_ids:
        raise _exceeded(name, len(value), "token ids", limits.max_stop_token_ids, "max_stop_token_ids")


def _of_tokens(name: str, value: Any, body: Body, limits: LimitSettings) -> None:
    if not isinstance(value, (dict, list)):
        return
    entries = len(value) * _sequences(body)
    if entries > limits.max_logit_bias:
        what = "entries" if entries == len(value) else "entries, counted once for each choice"
        raise _exceeded(name, entries, what, limits.max_logit_bias, "max_logit_bias")


_CHECKS: tuple[tuple[str, Callable[[str, Any, Body, LimitSettings], None]], ...] = (
    ("prompt", _prompt),
    ("n", _choices),
    ("best_of", _choices),
    ("messages", _messages),
    ("input", _messages),
    ("tools", _tools),
    ("functions", _tools),
    ("system", _system),
    ("stop", _stop),
    ("stop_sequences", _stop),
    ("stop_token_ids", _stop_token_ids),
    ("logit_bias", _of_tokens),
    ("allowed_token_ids", _of_tokens),
    ("bad_words", _bad_words),
)


def _prompts(prompt: Any) -> int:
    """The number of prompts; a list of numbers is one."""
    return len(prompt) if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)) else 1


def _sequences(body: Body) -> float:
    """Prompts times `n` or `best_of`, whichever is larger."""
    counts = [count for count in (body.get("n"), body.get("best_of")) if isinstance(count, (int, float))]
    return _prompts(body.get("prompt")) * max([1, *counts])


def _check_parts(name: str, messages: list[Any], limits: LimitSettings) -> None:
    parts = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        for key in ("content", "output", "tool_calls"):
            value = message.get(key)
            if isinstance(value, list):
                parts += len(value) + sum(map(_nested_parts, value))
                if parts > limits.max_message_parts:
                    param = f"{name}[{index}].{key}"
                    what = "parts and tool calls, with those of the messages before it"
                    raise _exceeded(param, parts, what, limits.max_message_parts, "max_message_parts")


def _nested_parts(part: Any) -> int:
    """The number of parts of a part, such as a tool_result of `/v1/messages`."""
    content = part.get("content") if isinstance(part, dict) else None
    return len(content) if isinstance(content, list) else 0


def _check_values(body: Body, limits: LimitSettings, containers: int) -> None:
    left = limits.max_json_values
    for name, value in body.items():
        if not isinstance(value, (dict, list)):
            continue
        if name not in FLAT:
            left = _counted_down(value, left)
        elif containers > limits.max_json_values:  # else not worth a look at each of its elements
            left = _counted_down(_inside(value), left)
        if left < 0:
            raise too_many_values(name, limits)


def _counted_down(value: dict[str, Any] | list[Any], left: int) -> int:
    """`left` less the number of values inside `value`; some negative number once there are more."""
    stack: list[Any] = [value]
    while stack and left >= 0:
        item = stack.pop()
        left -= len(item)
        if left >= 0:
            stack += _inside(item)
    return left


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    """The arrays and objects directly inside `value`."""
    elements = value.values() if isinstance(value, dict) else value
    return [one for one in elements if isinstance(one, (dict, list))]


def _exceeded(param: str, count: float, what: str, limit: int, setting: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{param}' has {count:.0f} {what}: at most {limit} are accepted (the setting limits.{setting}).",
        param,
    )
