"""A directory that is built once, by whichever process is first, and is either whole or absent."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trtllm_openai.errors import CheckpointError

ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a temporary directory is taken to be left by a killed process."""

TEMPORARY = ".building-"


def build_once(target: Path, files: Sequence[str], build: Callable[[Path], None]) -> Path:
    """`target`, holding `files`; `build` is called with a temporary directory when it does not exist yet.

    Processes that build at the same time each do the work; the first to finish gives the result to all.
    """
    if _complete(target, files):
        return target
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
    except OSError as error:
        raise CheckpointError(f"The cache directory {parent} cannot be written: {error.strerror}.") from None
    try:
        built = scratch / target.name
        built.mkdir()
        build(built)
        for file in files:
            _sync(built / file)
        _publish(built, target, files, scratch / "replaced")
    except OSError as error:
        raise CheckpointError(
            f"Converting the model into {parent} failed: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _complete(target: Path, files: Sequence[str]) -> bool:
    return all((target / file).is_file() for file in files)


def _publish(built: Path, target: Path, files: Sequence[str], replaced: Path) -> None:
    try:
        os.rename(built, target)
    except OSError:
        if _complete(target, files):
            return  # another process was first
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, replaced)  # somebody deleted parts of it
        os.rename(built, target)


def _sync(path: Path) -> None:
    """Bring a file to disk, so that a power cut cannot leave a complete name with empty content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(path, ignore_errors=True)
