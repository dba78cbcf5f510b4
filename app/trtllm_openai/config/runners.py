"""Where runners run and how they are chosen, a section of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trtllm_openai.config.fields import Section


class RunnerSettings(Section):
    """Where runners run, how many, and which of several gets a request."""

    launcher: Literal["local", "ray"] = Field(
        "local", description="what starts runners: local is this machine, ray is a Ray cluster (docs/ray.md)"
    )
    ray_address: str | None = Field(
        None, description="address of the Ray cluster; null is $RAY_ADDRESS, or the cluster of this machine"
    )
    ray_cpus: Annotated[float, Field(gt=0)] = Field(1.0, description="CPUs that Ray reserves for a runner")
    pool: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = Field(
        None,
        description="with launcher ray: name of a pool of runners that several servers share, each of which "
        "may go away; null is a pool of this server's own",
    )
    orphan_timeout: Annotated[float, Field(gt=0)] = Field(
        60.0, description="seconds after which runners of a shared pool end if no server is left"
    )
    scale_up_queue_time: Annotated[float, Field(gt=0)] = Field(
        2.0,
        description="where replicas is a range: runners are added when a sequence has waited for longer than "
        "so many seconds",
    )
    scale_up_kv_use: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="runners are added, too, when more than this share of the KV cache is in use"
    )
    scale_down_after: Annotated[float, Field(gt=0)] = Field(
        300.0,
        description="seconds in which one runner less would always have done, since the last change too, "
        "after which one is drained and ended",
    )
    routing: Literal["prefix", "work"] = Field(
        "prefix",
        description="which of several runners gets a request: work is the one with the least to do, prefix "
        "also looks for the one that has most of the prompt in its cache",
    )
