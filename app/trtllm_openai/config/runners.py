"""How runners are chosen, a section of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trtllm_openai.config.fields import Section


class RunnerSettings(Section):
    """Where there are several replicas."""

    routing: Literal["prefix", "work"] = Field(
        "prefix",
        description="which of several runners gets a request: work is the one with the least to do, prefix "
        "also looks for the one that has most of the prompt in its cache",
    )
