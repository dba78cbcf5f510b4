"""The pool that settings ask for."""

import subprocess
import sys
from typing import Any

import pytest

from tests.unit.runners.test_pool import spec
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.pools import agreed, make_scaler, ray_launcher


def test_ray_is_asked_for_by_a_setting_and_imported_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_launcher(Settings(replicas=4), 1) is None
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = Settings.model_validate({"runners": {"launcher": "ray"}})
    with pytest.raises(ConfigError, match=r"runners.launcher: ray needs `pip install .*\[ray\]'`"):
        ray_launcher(wanted, 1)
    server = "trtllm_openai.serve.application, trtllm_openai.serve.workers.supervisor"
    code = f"import sys, {server}; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"'ray'", "'trtllm_openai.runners.ray_launcher'"} & set(done.stdout.strip("[]\n").split(", "))


def test_only_runners_on_ray_are_shared() -> None:
    with pytest.raises(ConfigError, match=r"runners\.pool: only runners of runners.launcher: ray"):
        ray_launcher(Settings.model_validate({"runners": {"pool": "a"}}), 1)


def test_a_range_of_which_more_than_the_least_fit_is_scaled() -> None:
    assert make_scaler(Settings(replicas=3), 3) is None
    settings = Settings(replicas={"min": 1, "max": 4})
    assert make_scaler(settings, 1) is None  # there are GPUs for no more
    scaler = make_scaler(settings, 2)
    assert scaler is not None
    scaler.resume(9)
    assert scaler.wanted == 2
    scaler.resume(0)
    assert scaler.wanted == 1


@pytest.mark.parametrize(
    ("given", "differ"),
    [
        (
            {
                "host": "0.0.0.0",
                "port": 1,
                "workers": 3,
                "tool_parser": "hermes",
                "limits": {"max_waiting_requests": 2},
            },
            set(),
        ),
        ({"default_sampling": {"temperature": 0.5}, "log_level": "debug", "drain_timeout": 1.0}, set()),
        ({"runners": {"ray_address": "head:6379", "routing": "work"}}, set()),
        ({"runners": {"ray_cpus": 2}}, {"runners"}),
        ({"synthetic": {"ttft": 0.7}}, {"synthetic"}),
        ({"model": "other"}, {"model"}),
        ({"replicas": 2}, {"replicas"}),
        ({"stall_timeout": 9.0}, {"stall_timeout"}),
        ({"api_keys_file": "/a"}, {"api_keys_file"}),
    ],
)
def test_servers_agree_on_what_runners_read(given: dict[str, Any], differ: set[str]) -> None:
    one, other = agreed(Settings(), spec()), agreed(Settings.model_validate(given), spec())
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == differ
