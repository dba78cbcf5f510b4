"""The output of a request that an engine refuses."""

from trtllm_openai.engine_host.messages import Outputs, encode
from trtllm_openai.engines.base import refusal
from trtllm_openai.errors import InvalidRequest


def test_a_refusal_names_its_cause_and_can_be_sent() -> None:
    output = refusal("x", InvalidRequest("bad \ud800", "schema.\ud800", "invalid_schema"))
    assert (output.finish_reason, output.error, output.error_code) == ("error", "bad ?", "invalid_schema")
    assert output.error_param == "schema.?"
    assert encode(Outputs([output]))


def test_a_refusal_without_a_parameter() -> None:
    assert refusal("x", InvalidRequest("bad")).error_param is None
