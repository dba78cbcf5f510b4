"""The manifests of deploy/, as files and as Kustomize puts them together."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SERVER = "server"
"""Name of the server's container."""

Document = dict[str, Any]


def documents(file: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def kustomizations() -> list[Path]:
    return sorted(DEPLOY.rglob("kustomization.yaml"))


def whole() -> list[Path]:
    """Folders that can be applied: kustomizations that are no components."""
    return [path.parent for path in kustomizations() if documents(path)[0]["kind"] == "Kustomization"]


def resources() -> list[tuple[Path, Document]]:
    """Every object of the files that kustomizations name as resources."""
    found = []
    for path in kustomizations():
        for name in documents(path)[0].get("resources", ()):
            file = path.parent / name
            if file.is_file():
                found += [(file, one) for one in documents(file)]
    return found


def builder() -> list[str] | None:
    """The command that builds a kustomization, if one is installed."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@cache
def built(folder: Path) -> tuple[Document, ...]:
    """The objects of a kustomization with its patches."""
    command = builder()
    assert command is not None
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge patch as far as our patches need it: maps by key, lists of named items by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}
        return {key: value for key, value in result.items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(one, dict) for one in patch):
        key = "mountPath" if any("mountPath" in one for one in patch) else "name"
        known = {one[key]: one for one in base if key in one}
        if known and all(key in one for one in patch):
            return list((known | {one[key]: merged(known.get(one[key]), one) for one in patch}).values())
    return patch


def pods(document: Document) -> list[Document]:
    """The pod templates of an object."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Deployment":
            return [spec["template"]]
        case "LeaderWorkerSet":
            template = spec["leaderWorkerTemplate"]
            return [template["leaderTemplate"], template["workerTemplate"]]
        case "RayCluster":
            groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            return [group["template"] for group in groups]
    return []


def server_of(template: Document) -> Document | None:
    """The server's container of a pod, None if it has none."""
    containers = template["spec"]["containers"]
    return next((one for one in containers if one["name"] == SERVER), None)


def patched() -> list[tuple[str, Document]]:
    """The server's Deployment of base with each patch, and the leader of a LeaderWorkerSet."""
    (base,) = documents(DEPLOY / "base" / "deployment.yaml")
    found = [("base", base)]
    for file in sorted(DEPLOY.rglob("*.yaml")):
        if file.parent.name == "base" or file.name == "kustomization.yaml":
            continue
        for one in documents(file):
            if one.get("kind") == "Deployment" and one["metadata"]["name"] == "trtllm-openai":
                found.append((str(file.relative_to(DEPLOY)), merged(base, one)))
            elif one.get("kind") == "LeaderWorkerSet":
                found.append((str(file.relative_to(DEPLOY)), one))
    return found


def metric_names(text: str) -> set[str]:
    """The names of our metrics in a query."""
    return set(re.findall(r"\btrtllm_openai_\w+", text))
