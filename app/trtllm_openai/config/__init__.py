"""Settings: read from config.yaml, overridden by environment variables, overridden by flags.

`fields` has types, `engines`, `limits`, `sampling`, `kv_events` the sections, `settings` the whole, `flags`
its names on the command line and in the environment, and `load` reads it.
"""

from trtllm_openai.config.engines import SyntheticSettings, TensorRTLLMSettings, TorchSettings
from trtllm_openai.config.fields import LONGEST_TIMEOUT, Lookahead, Section
from trtllm_openai.config.kv_events import KVEventSettings
from trtllm_openai.config.limits import LimitSettings
from trtllm_openai.config.load import load_settings
from trtllm_openai.config.replicas import ReplicaRange
from trtllm_openai.config.sampling import DefaultSampling
from trtllm_openai.config.settings import Settings

__all__ = [
    "LONGEST_TIMEOUT",
    "DefaultSampling",
    "KVEventSettings",
    "LimitSettings",
    "Lookahead",
    "ReplicaRange",
    "Section",
    "Settings",
    "SyntheticSettings",
    "TensorRTLLMSettings",
    "TorchSettings",
    "load_settings",
]
