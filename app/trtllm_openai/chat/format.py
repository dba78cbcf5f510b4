"""The chat format of the served model: chat template, tool-call format and reasoning tags."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from trtllm_openai.chat.continuation import check_continued, continue_last
from trtllm_openai.chat.history import History, wanted_history
from trtllm_openai.chat.messages import Message, knows_developer, normalise
from trtllm_openai.chat.odd_messages import render_all
from trtllm_openai.chat.parsers.harmony import Harmony
from trtllm_openai.chat.parsers.json_array import JsonArray
from trtllm_openai.chat.parsers.output import ChatOutput
from trtllm_openai.chat.parsers.reasoning import REASONING, ReasoningSplitter
from trtllm_openai.chat.parsers.registry import TOOL_FORMATS, detect_reasoning, detect_tools
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.chat.template import PROMPT_LENGTH, ChatTemplate
from trtllm_openai.chat.thinking import ThinkingState, thinking_state
from trtllm_openai.chat.tool_prompt import without_tools
from trtllm_openai.chat.tools import NO_TOOLS, ToolPlan
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "chat_template"})
"""Variables that `chat_template_kwargs` cannot override."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation. `continued`: its end, if the answer continues the last message.

    `markers`: special tokens whose text the output parser needs. `thinking`: whether the answer begins with
    it.
    """

    text: str
    continued: str | None = None
    markers: frozenset[int] = frozenset()
    thinking: ThinkingState = "over"


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
        limits: dict[str, Any] = {
            "timeout_s": render_timeout_s,
            "max_length": max_prompt_length,
            "file": tokenizer.template_file,
        }
        self._template = ChatTemplate(source, tokenizer.special_tokens, **limits) if source else None
        self._history = wanted_history(self._template, source) if self._template else History()
        self._knows_developer = knows_developer(source)
        self.knows_documents = "documents" in source
        """Whether the template reads the variable `documents`."""
        self.knows_effort = "reasoning_effort" in source
        """Whether the template reads the variable `reasoning_effort`."""
        detected = detect_tools(source)
        self._template_has_tools = detected is not None
        name = (detected or "hermes") if tool_parser == "auto" else tool_parser
        self.tool_format = name if name in TOOL_FORMATS else None
        self.tools = TOOL_FORMATS.get(name)
        tags = detect_reasoning(source) if reasoning_parser == "auto" else reasoning_parser
        self.reasoning_format = tags if tags in REASONING else None
        self.reasoning = REASONING.get(tags or "none")
        self.channels = self.tool_format == "harmony" or bool(self.reasoning and self.reasoning.channels)
        """Whether the model writes reasoning, calls and content to channels that alternate."""
        self.call_form = self.tools.form if self.tools and self.channels == (name == "harmony") else None
        """How the model writes calls; None where that is not described, or its channels have no calls."""
        self._tool_markers = tokenizer.ids_of(self.tools.markers if self.tools else ())
        tags_of = self.reasoning.markers if self.reasoning else ()
        self._reasoning_markers = tokenizer.ids_of(tags_of)
        if self.channels:  # also of a response without tools and reasoning
            self._reasoning_markers |= tokenizer.ids_of(TOOL_FORMATS["harmony"].markers)
        marks = (*tags_of, *(self.tools.markers if self.tools else ()))
        self.special_marks = {
            mark: token for mark in marks for token in tokenizer.ids_of((mark,)) & tokenizer.special_ids
        }
        """Ids of the special tokens among the tags and marks, by their text."""
        self.end_of_thinking: tuple[int, ...] = (
            tuple(tokenizer.encode(self.reasoning.end, add_special_tokens=False)) if self.reasoning else ()
        )
        """The tokens of the end tag of thinking."""

    def render(
        self,
        messages: list[Message],
        tools: ToolPlan = NO_TOOLS,
        variables: dict[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        steps: int | None = None,
    ) -> Prompt:
        """Render the prompt for a client's messages. Raises `InvalidRequest`.

        `steps`: raise `LongRendering` after so many, see `ChatTemplate.render`.
        """
        template = self._template
        if template is None:
            raise InvalidRequest(
                "This model has no chat template: use /v1/completions, or set chat_template.", "messages"
            )
        for name in variables or ():
            if name in RESERVED_VARIABLES or name in template.reserved:
                json_path = f"chat_template_kwargs.{name}"
                raise InvalidRequest(f"'{json_path}' cannot be set.", json_path)
        normal = normalise(messages, developer=self._knows_developer)
        if continue_final_message:
            check_continued(messages[-1], f"messages[{len(messages) - 1}]")
        if not self._template_has_tools:
            normal = without_tools(normal, tools.tools)
        given = {**(variables or {}), "tools": list(tools.tools) or None}

        def draw(shown: list[Message], begin: bool) -> str:
            own = {**given, "add_generation_prompt": begin}
            adapted = self._history.adapted(shown, tools.tools)
            return render_all(adapted, partial(template.render, variables=own, steps=steps))

        continued: str | None = None
        if continue_final_message:
            text, continued = continue_last(normal, draw, self.reasoning)
        else:
            text = draw(normal, add_generation_prompt)
        thinking = self._thinking(text, continued)
        if thinking == "possible" and given.get("enable_thinking") is False and not self.channels:
            thinking = "over"
        return Prompt(text, continued, self.visible_special_ids(tools), thinking)

    def _thinking(self, prompt: str, continued: str | None) -> ThinkingState:
        return "over" if self.reasoning is None else thinking_state(prompt, self.reasoning, continued)

    def output(
        self,
        prompt: Prompt,
        tools: ToolPlan,
        *,
        guided: bool,
        own_calls: bool = False,
        show_reasoning: bool = True,
    ) -> ChatOutput | None:
        """Create the parser for the response to `prompt`; None if the response is plain text.

        `guided`: it has a demanded form, in which thinking that is over is not searched for. `own_calls`: a
        call that must come is in the model's own format.
        """
        opened = prompt.thinking == "open"
        parser: ToolParser | None = None
        if tools.schema is not None and not own_calls:
            make_id = self.tools.parser(()).call_id if self.tools else None
            parser = JsonArray(tools.names, make_id=make_id)
        elif self.channels:
            names = tools.names if self.tool_format == "harmony" else ()
            reasons = bool(self.reasoning and self.reasoning.channels)
            parser = Harmony(names, reasons=reasons, opened=opened)
        elif tools.tools and self.tools is not None:
            parser = self.tools.parser(tools.schemas)
        splitter = None
        form_only = guided and prompt.thinking == "over"
        if self.reasoning is not None and not self.reasoning.channels and not form_only:
            interrupts = self.tools.interrupts if self.tools and tools.tools else ()
            # A prompt that ends with the begin tag is at the beginning of thinking, continued or not.
            within = opened and not prompt.text.rstrip().endswith(self.reasoning.begin)
            splitter = ReasoningSplitter(
                self.reasoning, opened=opened, continued=within, interrupts=interrupts
            )
        if parser is None and splitter is None:
            return None
        return ChatOutput(splitter, parser, parallel=tools.parallel, show_reasoning=show_reasoning)

    def visible_special_ids(self, tools: ToolPlan) -> frozenset[int]:
        """Special tokens that the parsers need in the text."""
        return self._reasoning_markers | (self._tool_markers if tools.tools else frozenset())
