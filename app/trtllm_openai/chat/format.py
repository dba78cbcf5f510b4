"""The chat format of the served model: chat template, tool-call format and reasoning tags."""

from __future__ import annotations

from typing import Any

from trtllm_openai.chat.history import History, wanted_history
from trtllm_openai.chat.messages import Message, normalise
from trtllm_openai.chat.parsers.harmony import Harmony
from trtllm_openai.chat.parsers.json_array import JsonArray
from trtllm_openai.chat.parsers.output import ChatOutput
from trtllm_openai.chat.parsers.reasoning import REASONING, ReasoningSplitter
from trtllm_openai.chat.parsers.registry import TOOL_FORMATS, detect_reasoning, detect_tools
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.chat.template import PROMPT_LENGTH, ChatTemplate
from trtllm_openai.chat.tool_prompt import without_tools
from trtllm_openai.chat.tools import NO_TOOLS, ToolPlan
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "chat_template"})
"""Variables that `chat_template_kwargs` cannot override."""


class ChatFormat:
    """Created once per served model. Renders prompts and creates output parsers."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tool_parser: str,
        reasoning_parser: str,
        *,
        render_timeout_s: float = 5.0,
        max_prompt_length: int = PROMPT_LENGTH,
    ) -> None:
        """`tool_parser` and `reasoning_parser` name a format, or are `auto` or `none`.

        `render_timeout_s`, `max_prompt_length`: bounds of a rendering, see `chat.template`.
        Raises `CheckpointError` if the template cannot be compiled.
        """
        source = tokenizer.chat_template or ""
        limits: dict[str, Any] = {"timeout_s": render_timeout_s, "max_length": max_prompt_length}
        self._template = ChatTemplate(source, tokenizer.special_tokens, **limits) if source else None
        self._history = wanted_history(self._template, source) if self._template else History()
        detected = detect_tools(source)
        self._template_has_tools = detected is not None
        name = (detected or "hermes") if tool_parser == "auto" else tool_parser
        self.tool_format = name if name in TOOL_FORMATS else None
        self.tools = TOOL_FORMATS.get(name)
        tags = detect_reasoning(source) if reasoning_parser == "auto" else reasoning_parser
        self.reasoning_format = tags if tags in REASONING else None
        self.reasoning = REASONING.get(tags or "none")
        self._channels = self.tool_format == "harmony" or bool(self.reasoning and self.reasoning.channels)
        self._tool_markers = tokenizer.ids_of(self.tools.markers if self.tools else ())
        self._reasoning_markers = tokenizer.ids_of(self.reasoning.markers if self.reasoning else ())
        if self._channels:  # also of a response without tools and reasoning
            self._reasoning_markers |= tokenizer.ids_of(TOOL_FORMATS["harmony"].markers)

    def render(
        self,
        messages: list[Message],
        tools: ToolPlan = NO_TOOLS,
        variables: dict[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        steps: int | None = None,
    ) -> str:
        """Render the prompt for a client's messages. Raises `InvalidRequest`.

        `steps`: raise `LongRendering` after so many, see `ChatTemplate.render`.
        """
        if self._template is None:
            raise InvalidRequest(
                "This model has no chat template: use /v1/completions, or set chat_template.", "messages"
            )
        for name in variables or ():
            if name in RESERVED_VARIABLES or name in self._template.reserved:
                json_path = f"chat_template_kwargs.{name}"
                raise InvalidRequest(f"'{json_path}' cannot be set.", json_path)
        normal = normalise(messages)
        if not self._template_has_tools:
            normal = without_tools(normal, tools.tools)
        text = self._template.render(
            self._history.adapted(normal, tools.tools),
            {
                **(variables or {}),
                "tools": list(tools.tools) or None,
                "add_generation_prompt": add_generation_prompt and not continue_final_message,
            },
            steps=steps,
        )
        return _cut_after(text, normal[-1]) if continue_final_message else text

    def render_with_markers(
        self,
        messages: list[Message],
        tools: ToolPlan = NO_TOOLS,
        variables: dict[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        steps: int | None = None,
    ) -> tuple[str, frozenset[int]]:
        """Render a prompt; also returns the special tokens whose text the output parser needs."""
        prompt = self.render(
            messages,
            tools,
            variables,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            steps=steps,
        )
        return prompt, self.visible_special_ids(tools)

    def output(self, prompt: str, tools: ToolPlan, *, guided: bool) -> ChatOutput | None:
        """Create the parser for the response to `prompt`; None if the response is plain text."""
        opened = self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.begin)
        parser: ToolParser | None = None
        if tools.schema is not None:
            make_id = self.tools.parser(()).call_id if self.tools else None
            parser = JsonArray(tools.names, make_id=make_id)
        elif self._channels:
            names = tools.names if self.tool_format == "harmony" else ()
            reasons = bool(self.reasoning and self.reasoning.channels)
            parser = Harmony(names, reasons=reasons, opened=opened)
        elif tools.tools and self.tools is not None:
            parser = self.tools.parser(tools.schemas)
        splitter = None
        if self.reasoning is not None and not self.reasoning.channels and not guided:
            interrupts = self.tools.interrupts if self.tools and tools.tools else ()
            splitter = ReasoningSplitter(self.reasoning, opened=opened, interrupts=interrupts)
        if parser is None and splitter is None:
            return None
        return ChatOutput(splitter, parser, parallel=tools.parallel)

    def visible_special_ids(self, tools: ToolPlan) -> frozenset[int]:
        """Special tokens that the parsers need in the text."""
        return self._reasoning_markers | (self._tool_markers if tools.tools else frozenset())


def _cut_after(text: str, message: Message) -> str:
    """Cut the prompt after the content of its last message, so that the model continues it."""
    content = message["content"].strip()
    start = text.rfind(content) if content else -1
    if start < 0:
        raise InvalidRequest(
            "continue_final_message needs a last message whose content the template repeats as it is.",
            "continue_final_message",
        )
    return text[: start + len(content)]
