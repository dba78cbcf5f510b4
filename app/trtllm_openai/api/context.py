"""State that the routes share: the settings, the served model, admission, metrics and start-up progress.

`serve.state` builds one `ServerContext` for each HTTP process and fills it in as start-up proceeds; routes
reach it as `request.app.state.context`. Nothing here knows how the process was started.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.receiving import Bodies
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.errors import PoolError
from trtllm_openai.generation import EngineInfo
from trtllm_openai.generation.build import supported_defaults
from trtllm_openai.runners import Admission, SequencePool
from trtllm_openai.telemetry.failures import Failures
from trtllm_openai.telemetry.history import Overview
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.traces import Tracer
from trtllm_openai.telemetry.values import Snapshot
from trtllm_openai.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests are accepted, and if not, why and how far start-up is (`progress`, 0 to 1)."""

    ready: bool
    reason: str
    progress: float
    failed: bool = False


class ActiveRun(Protocol):
    """A request that is being answered."""

    def interrupt(self, error: Exception) -> None:
        """End the request with `error`."""

    @property
    def live(self) -> int:
        """Number of its sequences that an engine works on, or has queued."""

    @property
    def begun(self) -> int:
        """How many of them an engine has begun with."""

    @property
    def adapter(self) -> str | None:
        """The LoRA adapter of its sequences; None if they use none."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The served model once an engine is ready: everything a request needs to reach the runners.

    `adapter`: the LoRA adapter whose model id was asked for; None for the model itself. `defaults`: sampling
    parameters of requests that do not say, as far as the engine can honour them; those that are not here have
    the default of the parameter table.
    """

    id: str
    tokenizer: Tokenizer
    chat: ChatFormat
    pool: SequencePool
    info: EngineInfo
    adapter: str | None = None
    defaults: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ServerContext:
    """State shared by all routes of one HTTP process. Used from its event loop only."""

    settings: Settings
    metrics: Metrics
    admission: Admission
    bodies: Bodies
    """Reads request bodies, within a budget for all of them."""
    created: int
    """When the server was started, in Unix seconds."""
    model_id: str
    """The model's name on the wire; the configured model until the checkpoint is resolved."""
    merged_metrics: Callable[[Callable[[], Snapshot]], Awaitable[Snapshot]]
    """Merges the metrics of all HTTP processes; its argument gives those of this one."""
    overview: Callable[[], Awaitable[Overview]]
    """The last minutes of the whole server: samples of its metrics, and failures."""
    failures: Failures
    """The latest failures of this process."""
    others_behind: Callable[[], bool] = bool
    """Whether another HTTP process, which clients may reach as well, is not ready yet."""
    tracer: Tracer | None = None
    startup: Readiness = Readiness(False, "starting", 0.0)
    """Progress of start-up until there is a pool, and the reason of a failed start-up."""
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    """Sampling parameters of requests that do not say, as values on the wire; known with the tokenizer."""
    tokenizer: Tokenizer | None = None
    chat: ChatFormat | None = None
    pool: SequencePool | None = None
    draining: bool = False
    """Whether the server is shutting down: new POST requests get 503."""
    runs: set[ActiveRun] = field(default_factory=set)
    """Requests that are being answered."""
    _loaded: LoadedModel | None = None

    @property
    def readiness(self) -> Readiness:
        """Whether requests are accepted now."""
        if self.draining:
            return Readiness(False, "draining", 1.0)
        if self.pool is None or self.startup.failed:
            return self.startup
        status = self.pool.status()
        return Readiness(status.ready > 0, status.reason, status.progress, status.failed)

    @property
    def engine_info(self) -> EngineInfo | None:
        """The engine's limits and capabilities, or None before an engine was ready."""
        return self.pool.info if self.pool is not None else None

    @property
    def adapters(self) -> Collection[str]:
        """Names of the LoRA adapters, each a model id beside `model_id`."""
        return self.settings.adapters

    def check_model(self, model: str | None) -> None:
        """Raise `ApiError` 404 for a model that is not served here; None stands for the served one."""
        if model is None or model == self.model_id:
            return
        if model not in self.settings.aliases and model not in self.adapters:
            ids = (self.model_id, *self.settings.aliases, *self.adapters)
            served = ", ".join(f"'{name}'" for name in ids)
            raise ApiError(
                404,
                f"The model '{model}' does not exist; this server has {served}.",
                param="model",
                code="model_not_found",
            )

    def loaded(self, model: str | None = None) -> LoadedModel:
        """The served model under the id `model`, which `check_model` accepted, with the adapter of that id.

        Raises `PoolError` before an engine was ready.
        """
        pool = self.pool
        if pool is None or pool.info is None or self.tokenizer is None or self.chat is None:
            raise self.not_ready()
        if self._loaded is None or self._loaded.info is not pool.info:
            self._loaded = LoadedModel(
                self.model_id, self.tokenizer, self.chat, pool, pool.info, defaults=self._defaults(pool.info)
            )
        if model is None or model == self.model_id:
            return self._loaded
        return replace(self._loaded, id=model, adapter=model if model in self.adapters else None)

    def _defaults(self, info: EngineInfo) -> Mapping[str, float]:
        if not self.sampling_defaults:
            return {}
        defaults = supported_defaults(info, self.sampling_defaults)
        if missing := ", ".join(sorted(self.sampling_defaults.keys() - defaults.keys())):
            log.warning("the engine %s cannot honour these sampling defaults: %s", info.engine, missing)
        return defaults

    def not_ready(self) -> PoolError:
        """The error of a request that arrives before start-up is complete."""
        readiness = self.readiness
        return PoolError(readiness.reason, loading=not readiness.failed)
