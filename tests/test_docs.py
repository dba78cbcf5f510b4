"""Documents name files that exist, and the community files name make targets that exist."""

import re
import tomllib

import pytest
import yaml

from tests.conftest import PACKAGE_ROOT
from trtllm_openai.commands import SUMMARIES

ROOT = PACKAGE_ROOT.parent
PACKAGE = PACKAGE_ROOT / "trtllm_openai"


@pytest.mark.parametrize("page", ["docs/where_does_it_go.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    paths = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|yml|toml)|(?:[\w.-]+/)+)`", text))
    paths |= {target for target in re.findall(r"\]\(([^)#:]+)\)", text) if target}
    bases = (ROOT, PACKAGE, (ROOT / page).parent)
    missing = {path for path in paths if not any((base / path).exists() for base in bases)}
    assert paths
    assert not missing


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".ci/run"])
def test_named_make_targets_exist(file: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", (ROOT / file).read_text()))
    assert named
    assert named <= targets


def test_hosted_workflow_runs_what_ci_runs() -> None:
    def targets(file: str) -> set[str]:
        return set(re.findall(r"\bmake ([a-z][\w-]*)", (ROOT / file).read_text()))

    elsewhere = {"docs"}  # tests/test_site.py is what .ci/run has of it
    assert targets(".github/workflows/ci.yml") - elsewhere == targets(".ci/run")


def test_the_cpu_image_can_write_the_cache_that_compose_mounts() -> None:
    """A new named volume takes the owner of the folder in the image, which must therefore be the user's."""
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    (volume,) = compose["services"]["cpu"]["volumes"]
    name, _, path = volume.partition(":")
    assert name in compose["volumes"]
    stage = (ROOT / "Dockerfile").read_text().partition(" AS cpu")[2].partition("\nFROM ")[0]
    made = stage.index(f"install -d -o server -g server {path}")
    assert made < stage.index("USER ")


def test_images_and_a_plain_install_have_guides() -> None:
    """JSON mode and forced tools need llguidance: a dependency of the package, and not of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("llguidance") for one in project["dependencies"])
    stage = (ROOT / "Dockerfile").read_text().partition(" AS cpu")[2].partition("\nFROM ")[0]
    (install,) = re.findall(r"pip install [^\n]*'\.\[tracing,[\w,-]+\]'", stage)
    assert "--no-deps" not in install


def test_the_tensorrt_llm_image_has_every_dependency() -> None:
    """The project comes without dependencies there: each is installed, or tensorrt_llm requires it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {one.partition(";")[0].strip() for one in project["dependencies"]}
    extras = {one for name in ("tracing", "kv-events") for one in project["optional-dependencies"][name]}
    stage = (ROOT / "Dockerfile").read_text().partition(" AS trtllm")[2]
    installed = set(
        re.findall(
            r"'([a-zA-Z][^']*[<>=][^']*)'", stage.partition("RUN pip freeze")[2].partition("--no-deps")[0]
        )
    )
    assert installed <= declared | extras
    assert extras <= installed
    # What tensorrt_llm 1.2.1 requires, and what those packages require.
    theirs = {"fastapi", "starlette", "uvicorn", "pydantic", "pyyaml", "transformers", "tokenizers", "jinja2"}
    theirs |= {"huggingface-hub", "safetensors", "numpy", "torch", "llguidance"}
    assert {re.split(r"[<>=]", one)[0] for one in declared - installed} == theirs


def test_symptoms_of_troubleshooting_are_what_the_server_says() -> None:
    """Texts of messages and error codes, as they are in the source."""
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", source)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    start, refused = page.partition("## A request is refused")[::2]
    refused = refused.partition("\n## ")[0]
    found = []
    for rows in (start, refused):
        cells = [line.split(" | ")[0] for line in rows.splitlines() if line.startswith("| ")]
        found += [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    assert len(found) > 25
    assert not [span for span in found if span not in said and span != "code"]


def test_the_korean_readme_keeps_step_with_the_english() -> None:
    """The same sections in number, the same examples to the character, the same commands, flags and links."""
    english, korean = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
    layout = "```text\napp/trtllm_openai/"  # the one block that only README.md has

    def examples(text: str) -> list[str]:
        return [one for one in re.findall(r"```.*?\n```", text, re.DOTALL) if not one.startswith(layout)]

    def told(text: str) -> set[str]:
        body = re.sub(r"```.*?\n```", "", text, flags=re.DOTALL)
        spans = re.findall(r"`([^`\n]+)`", body)
        flags = {flag for one in spans for flag in re.findall(r"--[\w.-]+|TRTLLM_\w+|make [\w-]+", one)}
        return flags | {one for one in spans if one.startswith("/") or one in SUMMARIES}

    assert examples(english) == examples(korean)
    assert len(re.findall(r"^## ", english, re.MULTILINE)) == len(re.findall(r"^## ", korean, re.MULTILINE))
    assert told(english) == told(korean)
    links = [
        {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("README")}
        for text in (english, korean)
    ]
    assert links[0] == links[1]
