"""Loading settings: precedence, and refusals by key."""

from pathlib import Path

import pytest

from trtllm_openai.commands.serve import command
from trtllm_openai.commands.verb import settings_of
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError


def parse(*arguments: str) -> Settings:
    """The settings that `serve` has with these arguments."""
    context = command.make_context("serve", list(arguments))
    return settings_of(context, **context.params)


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


SCRIPT, GPUS, ADAPTERS = "--synthetic.script", "--gpus", "--tensorrt-llm.lora-adapters"
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ([SCRIPT, "Hello, world"], ["Hello, world"]),
        ([SCRIPT, CALL, SCRIPT, '{"a": [1]}', SCRIPT, "[a"], [CALL, '{"a": [1]}', "[a"]),
        ([SCRIPT, 'He said "no'], ['He said "no']),
        ([SCRIPT, '["a, b", "c\\n"]', SCRIPT, "[1]"], ["a, b", "c\n", "[1]"]),
        ([SCRIPT, ""], [""]),
        ([SCRIPT, "[]"], []),
    ],
)
def test_a_script_as_flags(flags: list[str], texts: list[str]) -> None:
    assert parse(*flags).synthetic.script == texts


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ([GPUS, "0,1"], ["0", "1"]),
        ([GPUS, '["0", "1"]'], ["0", "1"]),
        ([GPUS, "0", GPUS, "1"], ["0", "1"]),
        (["--cors-origins", "*"], ["*"]),
        ([ADAPTERS, "a=/x,b=/y"], {"a": "/x", "b": "/y"}),
        ([ADAPTERS, '{"a": "/x"}'], {"a": "/x"}),
        (["--tensorrt-llm.lookahead", "[7, 7, 7]"], (7, 7, 7)),
        (["--synthetic", '{"script": ["a"]}'], ["a"]),
    ],
)
def test_lists_and_maps_as_flags(flags: list[str], found: object) -> None:
    settings = parse(*flags)
    llm = settings.tensorrt_llm
    assert found in (
        settings.gpus,
        settings.cors_origins,
        llm.lora_adapters,
        llm.lookahead,
        settings.synthetic.script,
    )


@pytest.mark.parametrize(
    ("flag", "value", "key"),
    [
        (GPUS, "[0", "gpus"),
        (GPUS, '0"', "gpus"),
        ("--cors-origins", "[*", "cors_origins"),
        (ADAPTERS, "a", "tensorrt_llm.lora_adapters"),
        (ADAPTERS, '{"a"', "tensorrt_llm.lora_adapters"),
        (ADAPTERS, "[1]", "tensorrt_llm.lora_adapters"),
        ("--tensorrt-llm.lookahead", "[7", "tensorrt_llm.lookahead"),
        ("--tensorrt-llm.lookahead", "a,b,c", "tensorrt_llm.lookahead.0"),
        ("--torch", "x", "torch"),
        ("--limits", "5", "limits"),
        ("--synthetic", "[1", "synthetic"),
    ],
)
def test_a_flag_that_cannot_be_read_is_refused_by_key(flag: str, value: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?m)^{key}: "):
        parse(flag, value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPUS", "0,1"),
        ("CORS_ORIGINS", "*"),
        ("SYNTHETIC__SCRIPT", "hello"),
        ("TENSORRT_LLM__LORA_ADAPTERS", "a=/x"),
        ("TENSORRT_LLM__LOOKAHEAD", "7,7,7"),
        ("SYNTHETIC", "{"),
    ],
)
def test_an_environment_variable_that_is_no_json(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"TRTLLM_OPENAI_{variable}", value)
    with pytest.raises(ConfigError, match=f"^environment variable TRTLLM_OPENAI_{variable} must be JSON"):
        parse()


def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_OPENAI_GPUS", '["0"]')
    monkeypatch.setenv("TRTLLM_OPENAI_SYNTHETIC__SCRIPT", '["a, b"]')
    monkeypatch.setenv("TRTLLM_OPENAI_HOST", "::1")
    assert (parse().gpus, parse().synthetic.script, parse().host) == (["0"], ["a, b"], "::1")


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


def test_a_wrong_api_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_OPENAI_API_KEY", "two words")
    with pytest.raises(ConfigError, match=r"^api_key: ") as caught:
        parse()
    assert "words" not in str(caught.value)
    monkeypatch.delenv("TRTLLM_OPENAI_API_KEY")
    assert "sk-secret" not in repr(Settings(api_key="sk-secret"))


def test_flags_of_a_runner_hold_against_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner gets the settings as they are, and has the same environment."""
    monkeypatch.setenv("TRTLLM_OPENAI_PORT", "78")
    settings = parse("--port", "79")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    assert settings.port == 79


@pytest.mark.parametrize(
    "arguments",
    [
        ["--torch.max_batch_size", "3"],
        ["--torch.max-batch-size=3"],
        ["--torch", '{"max_batch_size": 3}'],
        ["--torch.max_batch_size", "2", "--torch.max-batch-size", "3"],
    ],
)
def test_a_flag_has_dashes_or_underscores_and_the_last_counts(arguments: list[str]) -> None:
    assert parse(*arguments).torch.max_batch_size == 3


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--no-open-health"], False),
        (["--no-open_health"], False),
        (["--open-health=false"], False),
        (["--open_health", "no"], False),
        (["--no-open-health", "--open-health"], True),
        (["--open-health", "true"], True),
    ],
)
def test_a_switch(arguments: list[str], value: bool) -> None:
    assert parse(*arguments).open_health is value
    assert parse(*arguments, "model").model == "model"


def test_the_model_is_an_argument_too() -> None:
    assert parse("/m", "--port", "1").model == parse("--model", "/m").model == "/m"


def test_null_is_no_value(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    config.write_text("workers: 3\ntorch: {max_seq_len: 5}\n")
    monkeypatch.setenv("TRTLLM_OPENAI_TORCH__MAX_SEQ_LEN", "null")
    settings = parse("--config", str(config), "--workers", "null")
    assert (settings.workers, settings.torch.max_seq_len) == (None, None)


def test_an_error_says_where_the_value_was_given(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("replicas: 0\n")
    monkeypatch.setenv("TRTLLM_OPENAI_TORCH__THREADS", "x")
    with pytest.raises(ConfigError) as caught:
        parse("--config", str(config), "--port", "x")
    origins = {
        line.partition(":")[0]: line.rpartition(" from ")[2] for line in str(caught.value).splitlines()
    }
    assert origins == {
        "port": "--port)",
        "torch.threads": "TRTLLM_OPENAI_TORCH__THREADS)",
        "replicas": f"{config})",
    }
