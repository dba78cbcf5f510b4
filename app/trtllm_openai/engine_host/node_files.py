"""A model's files on the node of a runner, which need not be the machine of the server.

Where the server's path does not exist on a node, the node finds the model as the server did: a hub id is
downloaded into the node's own cache (HF_HOME), at the commit that the server has; a .gguf file that the node
has is converted into its `cache_dir`. That is done once for a node: its runners wait for the first of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from trtllm_openai import checkpoints
from trtllm_openai.checkpoints.hub import is_hub_id
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engines.base import Progress
from trtllm_openai.errors import CheckpointError

POLL_S = 0.2


def node_files(settings: Settings, files: ModelFiles, progress: Progress) -> ModelFiles:
    """`files` as they are on this node. `progress` is called from this thread. Raises `CheckpointError`."""
    if settings.runners.launcher != "ray" or settings.engine in ("tensorrt_llm", "synthetic"):
        return files
    model = _model(settings.model, files)
    node = socket.gethostname()

    def tell(share: float, what: str) -> None:
        progress(share, f"{what} on {node}")

    with _alone(settings.cache_path, model, tell):
        if Path(files.model_dir).is_dir() and not is_hub_id(model):
            return files
        weights = settings.engine != "torch" or settings.torch.load_format != "dummy"
        found = _beside(
            lambda say: checkpoints.resolve(model, settings.cache_path, say, weights=weights), tell
        )
    own = files.tokenizer_dir == files.model_dir
    return msgspec.structs.replace(
        files, model_dir=str(found), tokenizer_dir=str(found) if own else files.tokenizer_dir
    )


def _model(model: str, files: ModelFiles) -> str:
    """The model; of a hub id the commit that the server has, which its directory is called by."""
    directory = Path(files.model_dir)
    if is_hub_id(model) and directory.parent.name == "snapshots":
        return f"{model.partition('@')[0]}@{directory.name}"
    return model


@contextlib.contextmanager
def _alone(cache: Path, model: str, tell: Progress) -> Iterator[None]:
    """Wait until no other process of this node gets this model. The kernel unlocks when a holder dies."""
    path = cache / f".{hashlib.sha256(model.encode()).hexdigest()[:16]}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise CheckpointError(f"The cache directory {cache} cannot be written: {error.strerror}.") from None
    with lock:
        waits = threading.Event()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tell(0.0, "waiting for another runner to get the model")
                waits.wait(POLL_S)
        yield


def _beside(do: Callable[[Progress], Path], tell: Progress) -> Path:
    """Run `do` in a thread, and tell its progress from this one, which may raise to end the process."""
    latest: list[tuple[float, str]] = [(0.0, "looking for the model")]
    done: list[Path | BaseException] = []

    def say(share: float, what: str) -> None:
        latest[0] = share, what

    def work() -> None:
        try:
            done.append(do(say))
        except BaseException as error:  # for the other thread
            done.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        tell(*latest[0])
        thread.join(POLL_S)
    (result,) = done
    if isinstance(result, BaseException):
        raise result
    return result
