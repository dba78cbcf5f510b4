"""A conversation made ready for the pool: its prompt, the tools it may call, the form its answer must have.

What `/v1/chat/completions`, `/v1/responses`, rendering and tokenising have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtllm_openai.api.guides import check_guide, find_guide, schema_guide
from trtllm_openai.api.params import encode
from trtllm_openai.api.sampling import truncated
from trtllm_openai.chat import ToolPlan, plan_tools
from trtllm_openai.chat.parsers import ChatOutput
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.serve.state import InferenceService


@dataclass(frozen=True, slots=True)
class Conversation:
    """`prompt` is the text that the model continues, `token_ids` what it is to the model."""

    service: InferenceService
    prompt: str
    token_ids: list[int]
    tools: ToolPlan
    guide: Guide | None

    def make_parser(self) -> ChatOutput | None:
        """What takes one answer apart."""
        return self.service.chat.output(self.prompt, self.tools, guided=self.guide is not None)

    @property
    def markers(self) -> frozenset[int]:
        """Special tokens that the parser needs to see."""
        return self.service.chat.visible_special_ids(self.tools)


async def prepare(service: InferenceService, body: ChatRequest, max_tokens: int | None) -> Conversation:
    """Render and tokenise a conversation. Raises `InvalidRequest`."""
    tools = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    if tools.tools and service.chat.tools is None and tools.schema is None:
        raise InvalidRequest(
            "This server reads no tool calls: its tool_parser is none.", "tools", "unsupported_parameter"
        )
    guide = find_guide(body, service.info, body.response_format)
    if tools.schema is not None:
        if guide is not None:
            raise InvalidRequest(
                f"{guide.param} cannot be combined with a tool_choice that demands a call.", guide.param
            )
        guide = schema_guide(tools.schema, "tools")
        check_guide(service.info, guide)
    prompt = render(service, body, tools)
    special = bool(body.add_special_tokens)
    token_ids = await encode(service, prompt, add_special_tokens=special, salt=body.cache_salt)
    token_ids = truncated(body, service.info, token_ids, max_tokens)
    return Conversation(service, prompt, token_ids, tools, guide)


def render(service: InferenceService, body: ChatRequest, tools: ToolPlan) -> str:
    """The prompt's text. Raises `InvalidRequest`."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        if body.reasoning_effort == "none":
            variables["enable_thinking"] = False
    variables.update(body.chat_template_kwargs or {})
    continued = bool(body.continue_final_message)
    if continued and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message exclude each other.", "continue_final_message"
        )
    return service.chat.render(
        body.messages,
        tools,
        variables,
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=continued,
    )
