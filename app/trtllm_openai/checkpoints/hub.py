"""Checkpoints by their id on the Hugging Face hub: `org/name`, or `org/name@revision`.

Weights in safetensors, configuration and tokenizer are downloaded into the hub's own cache (HF_HOME), which
other tools share; code of a repository is not, and none is run. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
are honoured, and a download that was interrupted goes on where it was.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trtllm_openai.errors import CheckpointError

log = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
CONFIGURATION = ("*.json", "*.jinja", "tokenizer.model")
WEIGHTS = ("*.safetensors",)
NOT = ("*/*",)
"""Folders of a repository hold copies in other formats (original/, onnx/ …)."""
LOOK_EVERY_S = 0.5
_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


def is_hub_id(model: str) -> bool:
    """Whether it has the form of an id; a directory of that name has precedence."""
    return _ID.fullmatch(model) is not None


def repository_of(model: str) -> str:
    """The id without a revision."""
    return model.partition("@")[0]


def download(model: str, progress: Progress, *, weights: bool = True) -> Path:
    """The directory of a checkpoint in the hub's cache; `progress` gets the share (0..1) that is there.

    Without a network, what is in the cache is used. Raises `CheckpointError` in a sentence.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    found = _ID.fullmatch(model)
    assert found is not None
    repository, revision = found["repository"], found["revision"]
    kinds = [*CONFIGURATION, *(WEIGHTS if weights else ())]

    def snapshot(local: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=kinds,
                ignore_patterns=list(NOT),
                local_files_only=local,
            )
        )

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with _watched(repository, revision, weights, progress):
            return snapshot(local=False)
    except GatedRepoError:
        reason = f"it is gated: ask for access at {endpoint}/{repository}, and set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision}"
    except RepositoryNotFoundError:
        reason = f"{endpoint} has no such model, or it is private and HF_TOKEN is not set"
    except HfHubHTTPError as error:
        reason = f"{endpoint} answered {error.response.status_code if error.response is not None else error}"
    except Exception as error:  # requests' and httpx's errors of a network, and OSError of the disk
        reason = f"{endpoint} cannot be reached, or the cache cannot be written ({type(error).__name__})"
        try:
            cached = snapshot(local=True)
        except Exception:  # it is not in the cache
            pass
        else:
            log.warning("%s is used from the cache: %s", model, reason)
            return cached
    raise CheckpointError(
        f"{model!r} is no directory here, and cannot be downloaded from the Hugging Face hub: {reason}."
    )


@contextmanager
def _watched(repository: str, revision: str | None, weights: bool, progress: Progress) -> Iterator[None]:
    """Report how many of the bytes are in the cache, while it is filled by whatever means the hub has."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    wanted = [file for file in info.siblings or () if _is_wanted(file.rfilename, weights)]
    total = sum(file.size or 0 for file in wanted) or 1
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            present = sum(path.stat().st_size for path in blobs.glob("*")) if blobs.is_dir() else 0
            progress(min(present / total, 1.0), f"downloading {repository} ({total / 1e9:.1f} GB)")

    progress(0.0, f"downloading {repository} ({total / 1e9:.1f} GB)")
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _is_wanted(name: str, weights: bool) -> bool:
    suffix = Path(name).suffix
    if "/" in name:
        return False
    return (
        suffix in (".json", ".jinja") or name == "tokenizer.model" or (weights and suffix == ".safetensors")
    )
