"""The formats that a declaration describes, each as its model family's own chat template writes calls.

Sources are the chat templates of the models on Hugging Face, and the parsers of vLLM and SGLang for what
the models write beside them.
"""

from __future__ import annotations

from trtllm_openai.chat.parsers.braced import BracedArguments
from trtllm_openai.chat.parsers.head import Mark, Name, Next, Space, Word
from trtllm_openai.chat.parsers.layout import CallLayout, JsonArguments, JsonObject, LayoutParser
from trtllm_openai.chat.parsers.tagged import TaggedArguments


class Hermes(LayoutParser):
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4; also what is
    taught to models without a format."""

    LAYOUT = CallLayout(
        begin=("<tool_call>",),
        head=(Mark("<tool_call>"),),
        arguments=JsonObject(before="\n"),
        end=("</tool_call>",),
        end_written="\n</tool_call>",
        separator="\n",
    )


class Granite(LayoutParser):
    """`<|tool_call|>[{"name": …, "arguments": …}, …]`, or after `<tool_call>`: Granite 3.0 to 3.3."""

    LAYOUT = CallLayout(
        begin=("<|tool_call|>", "<tool_call>"),
        head=(
            Mark("<|tool_call|>", optional=True),
            Mark("<tool_call>", optional=True),
            Space(),
            Next(("[", "{")),
        ),
        arguments=JsonObject(listed=True),
        separator=", ",
        opening="<|tool_call|>[",
        closing="]",
    )


class Granite20b(LayoutParser):
    """`<function_call> {"name": …, "arguments": …}` for each call: Granite 20B Function Calling."""

    LAYOUT = CallLayout(
        begin=("<function_call>",),
        head=(Mark("<function_call>"),),
        arguments=JsonObject(before=" "),
        separator="\n",
    )


class Phi4Mini(LayoutParser):
    """`functools[{"name": …, "arguments": …}, …]`, or such an array or object between `<|tool_call|>` and
    `<|/tool_call|>`: Phi-4-mini."""

    LAYOUT = CallLayout(
        begin=("functools[", "<|tool_call|>"),
        head=(
            Mark("<|tool_call|>", optional=True),
            Space(),
            Mark("functools", optional=True),
            Next(("[", "{")),
        ),
        arguments=JsonObject(listed=True),
        end=("<|/tool_call|>",),
        separator=", ",
        opening="functools[",
        closing="]",
    )


CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_SEP, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


class DeepSeekV3(LayoutParser):
    """`function<｜tool▁sep｜>name`, then the arguments in a code block: DeepSeek V3 and R1."""

    LAYOUT = CallLayout(
        begin=(CALLS_BEGIN, CALL_BEGIN),
        head=(
            Mark(CALLS_BEGIN, optional=True),
            Space(),
            Mark(CALL_BEGIN),
            Word("function"),
            Mark(CALL_SEP),
            Space(),
            Name(),
            Space("\n"),
            Mark("```json", optional=True),
            Space("\n"),
            Next(("{", "```", CALL_END)),
        ),
        arguments=JsonArguments(),
        end=("```", CALL_END, CALLS_END),
        end_written=f"\n```{CALL_END}",
        separator="\n",
        opening=CALLS_BEGIN,
        closing=CALLS_END,
    )


class DeepSeekV31(LayoutParser):
    """`<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`: DeepSeek V3.1."""

    LAYOUT = CallLayout(
        begin=(CALLS_BEGIN, CALL_BEGIN),
        head=(
            Mark(CALLS_BEGIN, optional=True),
            Space(),
            Mark(CALL_BEGIN),
            Space(),
            Name(),
            Space(),
            Mark(CALL_SEP),
            Space(),
            Next(("{", CALL_END)),
        ),
        arguments=JsonArguments(),
        end=(CALL_END, CALLS_END),
        end_written=CALL_END,
        opening=CALLS_BEGIN,
        closing=CALLS_END,
    )


class KimiK2(LayoutParser):
    """`<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`: Kimi K2.

    `functions.name:0` is the call's id, which the template writes back into the history.
    """

    LAYOUT = CallLayout(
        begin=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        head=(
            Mark("<|tool_calls_section_begin|>", optional=True),
            Space(),
            Mark("<|tool_call_begin|>"),
            Space(),
            Name("functions.", numbered=True),
            Space(),
            Mark("<|tool_call_argument_begin|>"),
            Space(),
            Next(("{", "<|tool_call_end|>")),
        ),
        arguments=JsonArguments(),
        end=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        end_written="<|tool_call_end|>",
        opening="<|tool_calls_section_begin|>",
        closing="<|tool_calls_section_end|>",
    )


class Qwen3Coder(LayoutParser):
    """`<function=name>`, then `<parameter=key>` and a value on lines of their own: Qwen3-Coder, Qwen 3.5."""

    LAYOUT = CallLayout(
        begin=("<tool_call>", "<function="),
        head=(
            Mark("<tool_call>", optional=True),
            Space("\n"),
            Mark("<function="),
            Name(),
            Mark(">"),
        ),
        arguments=TaggedArguments("<parameter=", ">", "</parameter>", line=True, between="\n"),
        end=("</function>", "</tool_call>"),
        end_written="\n</function>\n</tool_call>",
        separator="\n",
    )


class Glm45(LayoutParser):
    """`<tool_call>name`, then `<arg_key>` and `<arg_value>` for each argument: GLM 4.5, 4.6, 4.7 and 5."""

    LAYOUT = CallLayout(
        begin=("<tool_call>",),
        head=(Mark("<tool_call>"), Space(), Name(), Space(), Next(("<arg_key>", "</tool_call>"))),
        arguments=TaggedArguments("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", between="\n"),
        end=("</tool_call>",),
        inner=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        end_written="\n</tool_call>",
        separator="\n",
    )


class FunctionGemma(LayoutParser):
    """`<start_function_call>call:name{key:<escape>text<escape>}<end_function_call>`: FunctionGemma."""

    LAYOUT = CallLayout(
        begin=("<start_function_call>",),
        head=(Mark("<start_function_call>"), Space(), Mark("call:"), Space(), Name(), Space(), Next(("{",))),
        arguments=BracedArguments("<escape>"),
        end=("<end_function_call>",),
        inner=("<escape>",),
        end_written="<end_function_call>",
    )


class Gemma4(LayoutParser):
    """`<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>`: Gemma 4."""

    LAYOUT = CallLayout(
        begin=("<|tool_call>",),
        head=(Mark("<|tool_call>"), Space(), Mark("call:"), Space(), Name(), Space(), Next(("{",))),
        arguments=BracedArguments('<|"|>'),
        end=("<tool_call|>",),
        inner=('<|"|>',),
        end_written="<tool_call|>",
    )
