"""From the settings to the pool of a server: how many runners, who starts them, and who shares them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from trtllm_openai import __version__
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.errors import ConfigError
from trtllm_openai.runners import RunnerPool
from trtllm_openai.runners.launcher import Launcher, SubprocessLauncher
from trtllm_openai.runners.membership import Membership
from trtllm_openai.runners.process import Running
from trtllm_openai.runners.scaling import Scaler
from trtllm_openai.runners.shared import SharedPool

if TYPE_CHECKING:
    from trtllm_openai.runners.ray_launcher import RayLauncher

OwnedPool = RunnerPool | SharedPool
"""A pool of this server, and not of the process that it is a worker of."""


def ray_launcher(settings: Settings, gpus: int) -> RayLauncher | None:
    """The launcher of a Ray cluster, if the settings ask for it. Raises `ConfigError` without Ray."""
    if settings.runners.launcher != "ray":
        if settings.runners.pool is not None:
            raise ConfigError("runners.pool: only runners of runners.launcher: ray can be shared")
        return None
    from trtllm_openai.runners.ray_launcher import RayLauncher

    runners = settings.runners
    try:
        return RayLauncher(
            runners.ray_address,
            gpus=gpus,
            cpus=runners.ray_cpus,
            pool=runners.pool,
            may_wait=settings.engine != "torch" or settings.torch.device != "auto",
        )
    except ImportError as error:
        raise ConfigError(
            f"runners.launcher: ray needs `pip install 'trtllm-openai-server[ray]'` ({error})"
        ) from None


def make_scaler(settings: Settings, most: int) -> Scaler | None:
    """What decides on the number of runners, `most` of which there may be; None if it is fixed."""
    least, runners = settings.replica_range.min, settings.runners
    if least == most:
        return None
    return Scaler(
        least,
        most,
        queue_s=runners.scale_up_queue_time,
        kv_use=runners.scale_up_kv_use,
        down_after_s=runners.scale_down_after,
    )


def make_pool(
    settings: Settings,
    specs: Sequence[LaunchSpec],
    launcher: RayLauncher | None,
    on_change: Callable[[], None],
    hosts: PrestartedHosts | None = None,
) -> OwnedPool:
    """The pool of these runners: of this server alone, or shared with others.

    `hosts`: for the first launches on this machine, which is where they are without a `launcher`.
    """
    affinity = settings.runners.routing == "prefix"

    def own(
        changed: Callable[[], None], used: Launcher | None, running: Mapping[int, Running], wanted: int
    ) -> RunnerPool:
        scaler = make_scaler(settings, len(specs))
        if scaler is not None:
            scaler.resume(wanted)
        return RunnerPool(
            specs,
            load_timeout=settings.load_timeout,
            stall_timeout=settings.stall_timeout,
            retry_interval=settings.runner_retry_interval,
            on_change=changed,
            launcher=used or SubprocessLauncher(hosts),
            affinity=affinity,
            scaler=scaler,
            running=running,
        )

    if launcher is None or settings.runners.pool is None:
        return own(on_change, launcher, {}, 0)
    from trtllm_openai.runners.ray_registry import RayRegistry

    for spec in specs:
        spec.orphan_timeout_s = settings.runners.orphan_timeout
    membership = Membership(
        secrets.token_hex(4),
        RayRegistry(launcher.ray, launcher.join),
        launcher,
        own,
        agreed(settings, specs[0]),
    )
    return SharedPool(
        membership, len(specs), stall_timeout=settings.stall_timeout, on_change=on_change, affinity=affinity
    )


OF_A_SERVER = frozenset(
    {
        "api_key",
        "api_keys_file",
        "cache_dir",
        "chat_template",
        "cors_origins",
        "default_sampling",
        "drain_timeout",
        "generation_config",
        "host",
        "limits",
        "log_bodies",
        "log_format",
        "log_level",
        "max_body_bytes",
        "max_json_depth",
        "max_key_labels",
        "max_receiving_bytes",
        "max_stored_response_bytes",
        "max_stored_responses",
        "open_health",
        "open_metrics",
        "otlp_endpoint",
        "ping_interval",
        "port",
        "read_timeout",
        "reasoning_field",
        "reasoning_parser",
        "served_model_name",
        "server_timing",
        "tls_certificate",
        "tls_key",
        "tool_parser",
        "tool_strict",
        "web",
        "workers",
    }
)
"""Settings in which the servers of a shared pool may differ, as no runner reads them."""


def agreed(settings: Settings, spec: LaunchSpec) -> dict[str, str]:
    """Hashes of what servers have to agree on to share runners, by the names of settings."""
    values: dict[str, object] = settings.model_dump(mode="json", exclude=set(OF_A_SERVER))
    values["runners"] = settings.runners.model_dump(mode="json", exclude={"ray_address", "routing"})
    values |= {"version": __version__, "model files": msgspec.to_builtins(spec.files)}
    values |= {"api_keys_file": settings.api_keys_file is not None}
    return {
        name: hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
        for name, value in values.items()
    }
