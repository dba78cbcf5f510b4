"""LangChain's standard integration tests of chat models, over ChatOpenAI. Run by `tests.conformance.clients`.

With CONFORMANCE_TOLD the server's engine is told what to say, and neither samples nor obeys a `tool_choice`.
"""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

TOLD = "CONFORMANCE_TOLD" in os.environ


class TestServer(ChatModelIntegrationTests):
    """Text, tools and structured output; the model does not support images, audio or files."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        sampling = {"seed": 1, "temperature": 0.5, "frequency_penalty": 0.5}
        return {
            "model": os.environ["CONFORMANCE_MODEL"],
            "base_url": os.environ["CONFORMANCE_URL"],
            "api_key": "none",
            "max_completion_tokens": 800,
            "stream_usage": True,
            **({} if TOLD else sampling),
        }

    @property
    def has_tool_choice(self) -> bool:
        return not TOLD

    @property
    def supports_json_mode(self) -> bool:
        return True
