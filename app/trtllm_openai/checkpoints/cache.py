"""Cached directories, built once and published atomically: a directory is complete or absent."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trtllm_openai.errors import CheckpointError

ABANDONED_AFTER_S = 24 * 3600.0
"""Seconds. An older temporary directory was left behind by a killed process."""

TEMPORARY = ".building-"


def build_once(target: Path, files: Sequence[str], build: Callable[[Path], None]) -> Path:
    """Returns `target`; if it lacks any of `files`, `build` first creates them in a temporary directory.

    Processes that build at the same time each do the work, and the first to finish publishes its result.
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
            return  # another process published first
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, replaced)  # incomplete: files in it were deleted
        os.rename(built, target)


def _sync(path: Path) -> None:
    """fsync a file, so that a power failure cannot leave it published but empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)
