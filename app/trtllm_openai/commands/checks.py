"""The checks of `doctor`: what the configured engine needs of this machine, each problem with its fix."""

from __future__ import annotations

import importlib.util
import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.gpus import assign_gpus
from trtllm_openai.engines.kv_events import check_kv_events
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, check_version, read_engine_dir
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.engines.torch.quantized.weight_format import check_quantization_setting
from trtllm_openai.errors import CheckpointError, ConfigError
from trtllm_openai.processes.cores import usable_cores
from trtllm_openai.processes.mpi import RANK_VARIABLES
from trtllm_openai.serve.model import resolve_model
from trtllm_openai.text.tokenizer import Tokenizer

T = TypeVar("T")
SHM = Path("/dev/shm")
MIN_SHM = 2**30
"""Bytes. NCCL keeps the buffers between the ranks of one engine there."""
AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
BINDING = "OMPI_MCA_hwloc_base_binding_policy"
MIN_OPEN_FILES = 4096
"""Each client connection takes one file descriptor."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` is empty if the check passed."""

    name: str
    fact: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run all checks for the configured engine. Loads no model, but converts a .gguf file if it has to."""
    findings = [_open_files(), *_model(settings)]
    if settings.engine == "tensorrt_llm":
        engine = _engine_dir(settings)
        findings += [
            _driver(),
            _package(engine),
            *_gpus(settings, engine),
            _shared_memory(),
            _locked_memory(),
        ]
        if engine is not None and engine.world_size > 1:
            leads = settings.tensorrt_llm.launch == "leader"
            findings.append(_leader_mpi(settings) if leads else _orchestrator_mpi())
    elif settings.engine == "tensorrt_llm_pytorch":
        findings += [_driver(), _package(None), _shared_memory(), _locked_memory()]
    elif settings.engine == "torch":
        findings += [_torch(settings), _guides()]
    if settings.kv_events.endpoint or settings.kv_events.replay_endpoint:
        _, events = _check(
            "KV events", lambda: check_kv_events(settings), lambda _: str(settings.kv_events.endpoint)
        )
        findings.append(events)
    return findings


def report(findings: list[Finding]) -> str:
    """Format the findings, one line each and one more for a fix."""
    width = max(len(finding.name) for finding in findings)
    return "\n".join(
        f"{'FIX' if finding.fix else 'OK':3}  {finding.name:{width}}  {finding.fact}"
        + (f"\n     {'':{width}}  -> {finding.fix}" if finding.fix else "")
        for finding in findings
    )


def _model(settings: Settings) -> list[Finding]:
    try:
        found = resolve_model(settings, lambda *_: None)
    except (CheckpointError, ConfigError) as error:
        return [Finding("model", "cannot be used", str(error))]

    def load() -> Tokenizer:
        return Tokenizer.load(found.tokenizer_dir, settings.chat_template)

    def described(tokenizer: Tokenizer) -> str:
        template = "a chat template" if tokenizer.chat_template else "no chat template: /v1/completions only"
        return f"{tokenizer.vocab_size} tokens, ends with {list(tokenizer.eos_token_ids)}, {template}"

    checked = _check("tokenizer", load, described)
    loaded, tokenizer = checked
    findings = [Finding("model", str(found.model_dir)), tokenizer]
    if loaded is not None and loaded.chat_template:
        findings.append(_formats(loaded, settings))
    if settings.engine == "torch":
        _, architecture = _check(
            "architecture", lambda: _architecture(found.model_dir, settings), lambda described: described
        )
        findings.append(architecture)
    return findings


def _architecture(directory: Path, settings: Settings) -> str:
    """The model as the torch engine loads it. Raises `CheckpointError` or `ConfigError` if it does not."""
    config = read_config(directory)
    if config.weight_format is None:
        return config.architecture
    check_quantization_setting(settings.torch.quantization, config.weight_format)
    return f"{config.architecture}, {config.weight_format}"


def _formats(tokenizer: Tokenizer, settings: Settings) -> Finding:
    """The chat template, which must compile, and the formats found in it."""
    _, finding = _check(
        "chat format",
        lambda: ChatFormat(tokenizer, settings.tool_parser, settings.reasoning_parser),
        lambda chat: f"tools: {chat.tool_format or 'none'}, thinking: {chat.reasoning_format or 'none'}",
    )
    return finding


def _guides() -> Finding:
    """What JSON mode, JSON schemas and forced tool calls need on the torch engine."""
    if importlib.util.find_spec("llguidance") is None:
        return Finding(
            "guided decoding", "llguidance is not installed", "pip install 'llguidance>=0.7.29,<2'"
        )
    return Finding("guided decoding", f"llguidance {metadata.version('llguidance')}")


def _engine_dir(settings: Settings) -> EngineDir | None:
    try:
        return read_engine_dir(resolve_model(settings, lambda *_: None).model_dir)
    except (CheckpointError, ConfigError):
        return None  # _model reports it


def _driver() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return Finding(
            "driver", "nvidia-smi is not installed", "install NVIDIA's driver, or run with --gpus all"
        )
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return Finding("driver", "nvidia-smi hangs", "restart the machine: its driver hangs")
    if done.returncode != 0:
        fact = (done.stderr or done.stdout).strip().split("\n")[0]
        return Finding("driver", fact, "reload or reinstall NVIDIA's driver")
    return Finding("driver", "; ".join(line.strip() for line in done.stdout.strip().split("\n")))


def _package(engine: EngineDir | None) -> Finding:
    if importlib.util.find_spec("tensorrt_llm") is None:
        return Finding(
            "tensorrt_llm", "not installed", "use NVIDIA's TensorRT-LLM image 1.2.1, or --engine torch"
        )
    try:
        version = metadata.version("tensorrt_llm")
    except metadata.PackageNotFoundError:
        return Finding("tensorrt_llm", "installed without metadata", "install it with pip")
    if engine is not None:
        try:
            check_version(engine, version)
        except CheckpointError as error:
            return Finding("tensorrt_llm", version, str(error))
    return Finding("tensorrt_llm", version)


def _gpus(settings: Settings, engine: EngineDir | None) -> list[Finding]:
    if engine is None:
        return []
    each = settings.gpus_per_replica or engine.world_size
    _, finding = _check(
        "GPUs",
        lambda: assign_gpus(settings, each),
        lambda sets: "; ".join(f"replica {index}: {gpus or 'any'}" for index, gpus in enumerate(sets)),
    )
    return [finding]


def _torch(settings: Settings) -> Finding:
    import torch

    from trtllm_openai.engines.torch.device import check_quantization
    from trtllm_openai.engines.torch.kv_cache import choose_kv_dtype

    cuda = torch.cuda.is_available()
    if settings.torch.device == "cuda" and not cuda:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        return Finding("torch", f"{torch.__version__}, {built}", "install a CUDA build of torch and a driver")
    device = torch.device("cuda" if cuda and settings.torch.device != "cpu" else "cpu")
    try:
        check_quantization(settings.torch.quantization, device)
        choose_kv_dtype(settings.torch.kv_cache_dtype, torch.float32, device)
    except ConfigError as error:
        return Finding("torch", f"{torch.__version__} on a {device.type}", str(error))
    where = torch.cuda.get_device_name() if cuda else f"{usable_cores()} CPU cores"
    return Finding("torch", f"{torch.__version__} on {where}")


def _leader_mpi(settings: Settings) -> Finding:
    words = shlex.split(settings.tensorrt_llm.mpi_command)
    found = shutil.which(words[0])
    if found is None:
        return Finding(
            "MPI", f"{words[0]} is not installed", "install Open MPI, or set tensorrt_llm.mpi_command"
        )
    program = Path(found).name
    if program in ("mpirun", "mpiexec", "orterun"):
        allowed = "--allow-run-as-root" in words or all(os.environ.get(name) == "1" for name in AS_ROOT)
        if os.geteuid() == 0 and not allowed:
            return Finding(
                "MPI",
                f"{found} refuses to run as root",
                f"run as another user, as our image does, or set {'=1 and '.join(AS_ROOT)}=1",
            )
        if "--bind-to" not in words and "none" not in os.environ.get(BINDING, ""):
            return Finding(
                "MPI",
                f"{found} binds each rank to a core or a NUMA node",
                "add --bind-to none to tensorrt_llm.mpi_command",
            )
    if program == "srun" and not any(word.startswith(("--kill-on-bad-exit", "-K")) for word in words):
        return Finding(
            "MPI",
            f"{found} leaves the other ranks running when one dies",
            "add --kill-on-bad-exit=1 to tensorrt_llm.mpi_command",
        )
    return Finding("MPI", found)


def _orchestrator_mpi() -> Finding:
    started_by = next((name for name in RANK_VARIABLES if name in os.environ), None)
    if started_by is not None and started_by != "SLURM_PROCID":
        return Finding(
            "MPI",
            f"this is a rank of another MPI job: {started_by} is set",
            "start the server without mpirun, or set tensorrt_llm.launch to leader",
        )
    found = shutil.which("orted")
    if found is None:
        return Finding(
            "MPI",
            "Open MPI 4's orted is not in PATH: ranks cannot be spawned",
            "use NVIDIA's TensorRT-LLM image 1.2.1, or install Open MPI 4",
        )
    return Finding("MPI", found)


def _shared_memory() -> Finding:
    size = shutil.disk_usage(SHM).total if SHM.is_dir() else 0
    fact = f"{size / 2**20:.0f} MiB in {SHM}"
    if size < MIN_SHM:
        return Finding("shared memory", fact, "run the container with --ipc host or --shm-size 1g")
    return Finding("shared memory", fact)


def _locked_memory() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY:
        return Finding("locked memory", f"{soft} bytes", "run with --ulimit memlock=-1 (ulimit -l unlimited)")
    return Finding("locked memory", "unlimited")


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_OPEN_FILES:
        return Finding("open files", str(soft), f"raise the limit: ulimit -n {MIN_OPEN_FILES}")
    return Finding("open files", str(soft))


def _check(name: str, do: Callable[[], T], fact: Callable[[T], str]) -> tuple[T | None, Finding]:
    """Run `do`: its result and a finding with `fact(result)`, or None and a finding with the error."""
    try:
        result = do()
    except (CheckpointError, ConfigError) as error:
        return None, Finding(name, "cannot be used", str(error))
    return result, Finding(name, fact(result))
