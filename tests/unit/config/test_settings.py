"""config.yaml says what the settings are."""

import yaml

from tests.conftest import PACKAGE_ROOT
from trtllm_openai.config import Section, Settings


def test_config_yaml_holds_every_key_with_its_default_and_its_description() -> None:
    text = (PACKAGE_ROOT.parent / "config.yaml").read_text()
    assert yaml.safe_load(text) == Settings().model_dump(mode="json")
    comments: dict[str, str] = {}
    section = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            lines.append(line.strip(" #"))
        elif line.strip():
            key = line.split(":")[0]
            section = section if line.startswith(" ") else ""
            comments[section + key.strip()] = " ".join(lines)
            section = section or f"{key}."
            lines = []
        else:
            lines = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            for sub, inner in type(field.default).model_fields.items():
                assert inner.description is not None, sub
                assert comments[f"{name}.{sub}"].lower() == inner.description.lower()
        else:
            assert field.description is not None, name
            assert comments[name].lower() == field.description.lower()
