"""Names of environment variables: those of settings, and those that Kubernetes injects beside them."""

from __future__ import annotations

import re

ENV_PREFIX = "TRTLLM_OPENAI_"
_OF_KUBERNETES = re.compile(
    ENV_PREFIX + r"(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))"
)
_URL_OF_KUBERNETES = re.compile(ENV_PREFIX + r"(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?")
"""Names of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""


def is_of_kubernetes(variable: str, value: str) -> bool:
    """Whether Kubernetes injected the variable, into every pod beside a Service with a name like ours.

    For a Service trtllm-openai these include TRTLLM_OPENAI_PORT=tcp://10.0.0.1:8000, which is no port.
    """
    name = variable.upper()
    url = _URL_OF_KUBERNETES if "://" in value else None
    return any(pattern is not None and pattern.fullmatch(name) for pattern in (_OF_KUBERNETES, url))
