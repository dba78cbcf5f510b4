"""Settings: precedence, refusals, and that config.yaml says what the code does."""

import argparse
from pathlib import Path

import pytest
import yaml

from trtllm_openai.config import Section, Settings, add_flags, load_settings
from trtllm_openai.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load_settings(parser.parse_args(arguments))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "settings.yaml"
    path.write_text("port: 77\ntorch:\n  dtype: float32\n  threads: 3\n")
    return path


def test_file_below_environment_below_flags(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("--config", str(config)).port == 77
    monkeypatch.setenv("TRTLLM_OPENAI_PORT", "78")
    monkeypatch.setenv("TRTLLM_OPENAI_TORCH__THREADS", "4")
    settings = parse("--config", str(config))
    assert (settings.port, settings.torch.threads, settings.torch.dtype) == (78, 4, "float32")
    settings = parse("--config", str(config), "--torch.threads", "5", "--port", "79")
    assert (settings.port, settings.torch.threads, settings.torch.dtype) == (79, 5, "float32")


def test_config_yaml_in_the_working_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("engine: synthetic\n")
    assert parse().engine == "synthetic"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("port: many\n", "port"),
        ("torch:\n  dtype: fp7\n", "torch.dtype"),
        ("torch:\n  dtyp: float32\n", "torch.dtyp"),
        ("replicas: 0\n", "replicas"),
        ("prot: 1\n", "prot"),
        ("ping_interval: 16\n", "ping_interval"),
        ("limits:\n  request_timeout: 1e12\n", "limits.request_timeout"),
    ],
)
def test_wrong_value_in_the_file_is_refused_by_key(config: Path, text: str, key: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=rf"(?m)^{key}: "):
        parse("--config", str(config))


def test_adapters_and_lookahead_from_flags_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = "--tensorrt-llm.lora-adapters"
    settings = parse(
        "--engine", "tensorrt_llm", flag, "a=/x", flag, "b=/y", "--tensorrt-llm.lookahead", "7,7,7"
    )
    assert (settings.adapters, settings.tensorrt_llm.lookahead) == ({"a": "/x", "b": "/y"}, (7, 7, 7))
    monkeypatch.setenv("TRTLLM_OPENAI_TENSORRT_LLM__LORA_ADAPTERS", '{"c": "/z"}')
    assert parse("--engine", "tensorrt_llm").adapters == {"c": "/z"}
    with pytest.raises(ConfigError, match=r"tensorrt_llm\.lookahead"):
        parse("--tensorrt-llm.lookahead", "7,7")


@pytest.mark.parametrize("text", ["- a\n- b\n", "port: [1\n", "a: b: c\n"])
def test_unreadable_file_is_refused_by_name(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        parse("--config", str(config))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        parse("--config", str(tmp_path / "none.yaml"))


def test_wrong_flag_and_environment_are_refused_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^port: "):
        parse("--port", "x")
    monkeypatch.setenv("TRTLLM_OPENAI_PRT", "1")
    with pytest.raises(ConfigError, match="TRTLLM_OPENAI_PRT"):
        parse()


KUBERNETES = {
    "": {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8000",
        "SERVICE_PORT_HTTP": "8000",
        "PORT": "tcp://10.0.0.1:8000",
        "PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "PORT_8000_TCP_PROTO": "tcp",
        "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.0.0.1",
    }
}
KUBERNETES["SERVER_"] = KUBERNETES[""]
"""What a pod finds in its environment beside a Service trtllm-openai, or trtllm-openai-server."""


@pytest.mark.parametrize("service", sorted(KUBERNETES))
def test_the_variables_of_kubernetes_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in KUBERNETES[service].items():
        monkeypatch.setenv(f"TRTLLM_OPENAI_{service}{name}", value)
    assert parse().port == 8000
    assert parse("--port", "79").port == 79
    assert Settings.model_validate(parse("--port", "79").model_dump(mode="json")).port == 79


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "many"), ("SERVER_PORT", "8000"), ("PORT_8000_TCP", "x"), ("SERVICE_HOSTS", "x")],
)
def test_what_only_resembles_a_variable_of_kubernetes_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TRTLLM_OPENAI_{name}", value)
    with pytest.raises(ConfigError):
        parse()


def test_a_wrong_api_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_OPENAI_API_KEY", "two words")
    with pytest.raises(ConfigError, match=r"^api_key: ") as caught:
        parse()
    assert "words" not in str(caught.value)
    monkeypatch.delenv("TRTLLM_OPENAI_API_KEY")
    assert "sk-secret" not in repr(Settings(api_key="sk-secret"))


def test_config_yaml_holds_every_key_with_its_default_and_its_description() -> None:
    text = (ROOT / "config.yaml").read_text()
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
