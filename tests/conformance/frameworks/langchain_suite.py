"""LangChain's standard integration tests of chat models, over ChatOpenAI. Run by test_langchain.py."""

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestServer(ChatModelIntegrationTests):
    """Text, tools and structured output; the model does not support images, audio or files."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": os.environ["CONFORMANCE_MODEL"],
            "base_url": os.environ["CONFORMANCE_URL"],
            "api_key": "none",
            "max_completion_tokens": 800,
            "stream_usage": True,
            "seed": 1,
            "temperature": 0.5,
            "frequency_penalty": 0.5,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True
