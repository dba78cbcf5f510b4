"""Variables that Kubernetes injects, and those that only resemble them."""

from pathlib import Path

import pytest

from tests.unit.config.test_load import parse
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError

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
