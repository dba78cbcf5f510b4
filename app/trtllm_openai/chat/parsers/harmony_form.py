"""How gpt-oss writes an answer, as parts of a structural tag: messages on channels, up to the last.

The prompt ends with `<|start|>assistant`, so that the first message begins with the rest of its header. A
message that is not the last ends with `<|end|>` and is followed by the next one's start. A call ends the
answer, since `<|call|>` is an end-of-sequence token. The recipient of a call stands in either place that the
format has for it. Sources: as for `chat.parsers.harmony`, which reads what is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtllm_openai.chat.parsers.call_forms import CallableTool
from trtllm_openai.chat.parsers.harmony import BODY_ENDS, CHANNEL, CONSTRAIN, FUNCTIONS, MESSAGE, START
from trtllm_openai.chat.parsers.tag_forms import (
    ANY_TEXT,
    Part,
    any_text,
    either,
    repeated,
    sequence,
    tag,
    text,
)

END = "<|end|>"
NEXT = f"{START}assistant"
ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"
JSON = f" {CONSTRAIN}json"
BODY = any_text(*BODY_ENDS)
"""The text of a last message; others have their own end."""
ENDED_BODY = tag("", any_text(*(mark for mark in BODY_ENDS if mark != END)), END)
KINDS_OF_ARGUMENTS = ("", JSON, " json", f"{CONSTRAIN}json", " code")
"""Texts that models write between the recipient, or the channel, and the arguments."""


def demanded(
    forms: Sequence[Part],
    tools: Sequence[CallableTool],
    *,
    thinks: bool,
    thinking: bool,
    within: bool,
    once: bool = False,
) -> Part:
    """A final message that has one of `forms`, or a call of one of `tools`, after thinking.

    `thinks`: messages on the channel of analysis may come first; with `once` at most one, since XGrammar
    0.1.32 cannot repeat them. `thinking`: the prompt ends inside of one; `within`: inside of the final one.
    """
    last = [_message(FINAL, one) for one in forms]
    if within:
        return either(*forms) if forms else sequence(text(f"{END}{NEXT}"), either(*map(call, tools)))
    last += map(call, tools)
    answer = either(*last)
    if once:
        thought = tag("" if thinking else f"{CHANNEL}{ANALYSIS}{MESSAGE}", ANY_TEXT, END)
        after = sequence(thought, text(NEXT), answer)
        return after if thinking else either(after, answer) if thinks else answer
    if thinks:
        answer = sequence(_messages(ANALYSIS), answer)
    return _rest(answer) if thinking else answer


def free(tools: Sequence[CallableTool], *, inside: bool) -> Part:
    """Any messages; a call that begins is one of `tools`. `inside`: the prompt ends inside of a message."""
    open_ended = [_message(channel, BODY) for channel in (ANALYSIS, COMMENTARY, FINAL)]
    answer = sequence(_messages(ANALYSIS, COMMENTARY, FINAL), either(*map(call, tools), *open_ended))
    return either(_rest(answer), BODY) if inside else answer


def call(tool: CallableTool) -> Part:
    """A message to a function, without its end."""
    recipient = f" to={FUNCTIONS}{tool.name}"
    channels = (f"{CHANNEL}{COMMENTARY}", f"{CHANNEL}{ANALYSIS}")
    headers = [text(f"{one}{recipient}") for one in channels] + [
        text(f"{recipient}{one}") for one in channels
    ]
    kinds = [text(f"{kind}{MESSAGE}") for kind in KINDS_OF_ARGUMENTS]
    return sequence(either(*headers), either(*kinds), tool.arguments)


def _message(channel: str, body: Part) -> Part:
    """The last message, which the end of the answer ends. Its header is cut as that of `_messages`."""
    kinds = [text(f"{kind}{MESSAGE}") for kind in ("", JSON)]
    return sequence(text(f"{CHANNEL}{channel}"), either(*kinds) if channel == FINAL else kinds[0], body)


def _messages(*channels: str) -> Part:
    """Any number of messages of any text, with the start of the next one after each."""
    return repeated(
        [tag(f"{CHANNEL}{channel}", {**ENDED_BODY, "begin": MESSAGE}, NEXT) for channel in channels]
    )


def _rest(answer: Part) -> Part:
    """The rest of a message, and the answer after it."""
    return sequence(ENDED_BODY, text(NEXT), answer)
