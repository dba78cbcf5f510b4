"""tests/unit mirrors the package: every module with logic has the test file of its name, or a reason here."""

from tests.conftest import PACKAGE_ROOT

PACKAGE = PACKAGE_ROOT / "trtllm_openai"
UNIT = PACKAGE_ROOT.parent / "tests" / "unit"

PENDING = ("engines/tensorrt_llm/",)
"""Folders whose lists are not settled."""

TESTED_IN = {
    # One property suite over all formats: any text, cut anywhere, gives the same events.
    "chat/parsers/formats.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/layout.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/head.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/tagged.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/arguments_reader.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/braced.py": "tests/unit/chat/test_formats.py",
    "chat/parsers/harmony.py": "tests/unit/chat/test_harmony.py",
    "chat/parsers/harmony_form.py": "tests/unit/chat/test_harmony_form.py",
    "chat/parsers/string_forms.py": "tests/unit/chat/test_string_forms.py",
    "chat/parsers/references.py": "tests/unit/chat/test_references.py",
    "chat/parsers/values.py": "tests/unit/chat/test_values.py",
    "chat/parsers/tag_forms.py": "tests/unit/chat/test_written_calls.py",
    "chat/parsers/written_calls.py": "tests/unit/chat/test_written_calls.py",
    # Walks under the real masks, read by each format's parser.
    "chat/parsers/call_forms.py": "tests/unit/api/test_forms.py",
    "chat/parsers/json_array.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/json_call.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/json_value.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/llama_json.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/marker.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/mistral.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/output.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/pythonic.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/registry.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/tool_parser.py": "tests/unit/chat/test_parsers.py",
    "chat/parsers/reasoning.py": "tests/unit/chat/test_reasoning.py",
    # Ray: a cluster of three nodes (`make cluster`).
    "runners/ray_launcher.py": "tests/cluster/test_ray.py",
    "runners/ray_registry.py": "tests/cluster/test_shared.py",
    # A pool is what its membership makes of it.
    "runners/shared.py": "tests/unit/runners/test_membership.py",
    # Sockets and processes: driven against a server whose pace is known.
    "bench/client.py": "tests/e2e/test_bench.py",
    "bench/run.py": "tests/e2e/test_bench.py",
    "bench/worker.py": "tests/e2e/test_bench.py",
    # Its output is the demo's tokenizer, which every test of text loads and compares with transformers' own.
    "checkpoints/gguf_tokenizer.py": "tests/unit/text/test_tokenizer.py",
    # A whole engine is loaded and generates.
    "commands/generate.py": "tests/unit/test_cli.py",
    "commands/completing.py": "tests/unit/test_cli.py",
    # Reports of both kinds of models.
    "commands/checkpoint_report.py": "tests/unit/commands/test_inspect.py",
    "commands/engine_report.py": "tests/unit/commands/test_inspect.py",
    "checkpoints/weight_files.py": "tests/unit/commands/test_inspect.py",
    # A conversation at a pseudo-terminal, with a started server.
    "commands/chat.py": "tests/e2e/test_terminal.py",
    "commands/chat_screen.py": "tests/e2e/test_terminal.py",
    "commands/client.py": "tests/e2e/test_terminal.py",
    # Programs of the tools' names are started, and say what they were told.
    "commands/launch_setups.py": "tests/unit/commands/test_launch.py",
    "commands/talk.py": "tests/e2e/test_terminal.py",
    # One call each, made as a user makes it.
    "commands/bench.py": "tests/e2e/test_bench.py",
    "commands/key.py": "tests/unit/test_cli.py",
    "commands/serve.py": "tests/unit/test_cli.py",
    "commands/doctor.py": "tests/unit/test_cli.py",
    "commands/completion.py": "tests/unit/test_cli.py",
    # Flags as they are typed, and wrong ones.
    "commands/verb.py": "tests/unit/test_cli.py",
    "config/flags.py": "tests/unit/config/test_load.py",
    # Schemas for the document; what is really sent is held against them.
    "protocol/documented.py": "tests/e2e/test_openapi.py",
    # Refusals of token ids, and both routes.
    "protocol/tokens.py": "tests/unit/api/test_tokens.py",
    # Signals, drain and start-up that fails, of a whole server.
    "serve/uvicorn.py": "tests/e2e/test_load.py",
    # Processes that share a socket and each other's answers.
    "serve/workers/__main__.py": "tests/e2e/test_workers.py",
    "serve/workers/worker.py": "tests/e2e/test_workers.py",
    # Ranges, held against those of the table of parameters.
    "config/sampling.py": "tests/unit/serve/test_sampling_defaults.py",
    # The table and what follows from it: request fields, checks, documentation.
    "generation/sampling.py": "tests/unit/generation/test_parameters.py",
    # Refusals differ by engine and wire field, so they are tested where both meet.
    "generation/build.py": "tests/e2e/test_raw.py",
    "__main__.py": "tests/e2e/conftest.py",
    # Real runner processes are started, killed and asked to end.
    "engine_host/__main__.py": "tests/unit/runners/test_pool.py",
    # The whole decoder is compared with transformers.
    "engines/torch/model.py": "tests/unit/engines/torch/test_parity.py",
    # Settings and their errors are those of the engine that comes out.
    "engines/torch/loader.py": "tests/unit/engines/torch/test_engine.py",
    # Plans are what the scheduler makes, within the limits.
    "engines/torch/plan.py": "tests/unit/engines/torch/test_scheduler.py",
    # Its steps are compared with those of an executor that overlaps them.
    "engines/torch/executor.py": "tests/unit/engines/torch/test_overlap.py",
    # Guides in an engine's batch, beside sequences without one.
    "engines/torch/token_masks.py": "tests/unit/engines/torch/test_guides.py",
    # Ranks are processes of one engine: started, compared with a single rank, killed.
    "engines/torch/follower.py": "tests/unit/engines/torch/test_parallel.py",
    "engines/torch/followers.py": "tests/unit/engines/torch/test_parallel.py",
    # These need a GPU: each kernel against a float64 reference ...
    "engines/torch/cuda/kernels/attention.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/few_rows.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/gemv.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/int4_product.py": "tests/gpu/test_quantized.py",
    "engines/torch/cuda/kernels/launch.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/norm.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/rope.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/sampling.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/splits.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/kernels/swiglu.py": "tests/gpu/test_kernels.py",
    "engines/torch/cuda/inputs.py": "tests/gpu/test_inputs.py",
    "engines/torch/cuda/mixed_inputs.py": "tests/gpu/test_inputs.py",
    "engines/torch/cuda/prefill.py": "tests/gpu/test_prefill.py",
    "engines/torch/cuda/kernels/mixed_attention.py": "tests/gpu/test_prefill.py",
    # ... what exchanges data between GPUs on several of them ...
    "engines/torch/cuda/kernels/arrival.py": "tests/gpu/test_parallel.py",
    "engines/torch/cuda/kernels/exchange.py": "tests/gpu/test_parallel.py",
    "engines/torch/cuda/kernels/gather.py": "tests/gpu/test_parallel.py",
    "engines/torch/cuda/peers.py": "tests/gpu/test_parallel.py",
    # ... and the rest in the tokens of a whole engine, compared with transformers.
    "engines/torch/cuda/executor.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/graphs.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/kernels/embedding.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/kernels/quantize.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/memory_profile.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/model.py": "tests/gpu/test_torch_cuda.py",
    "engines/torch/cuda/projection.py": "tests/gpu/test_torch_cuda.py",
}
"""Modules that are tested elsewhere, each group with the reason."""

WITHOUT_LOGIC = {
    "errors.py": "exception classes with their fields",
    "config/engines.py": "declarations, which tests/unit/config/test_settings.py compares with config.yaml",
    "config/fields.py": "types",
    "config/limits.py": "declarations, compared like those of config/engines.py",
    "config/runners.py": "declarations, compared like those of config/engines.py",
    "generation/types.py": "msgspec structs",
    "telemetry/definitions.py": "declarations, which tests/unit/telemetry/test_metrics.py compares with docs",
    "api/choice.py": "a dataclass",
    "serve/deployment.py": "a protocol, and the process that has no other to ask",
    "serve/workers/messages.py": "msgspec structs",
}


def modules() -> set[str]:
    """Modules of the settled folders; a package's __init__ only gathers names."""
    found = (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {name for name in found if not name.startswith(PENDING)}


def has_test(module: str) -> bool:
    folder, _, name = module.rpartition("/")
    return (UNIT / folder / f"test_{name}").exists()


def test_every_module_has_its_test_file() -> None:
    missing = {name for name in modules() - TESTED_IN.keys() - WITHOUT_LOGIC.keys() if not has_test(name)}
    assert not missing


def test_exceptions_are_needed() -> None:
    listed = TESTED_IN.keys() | WITHOUT_LOGIC.keys()
    assert listed <= modules(), "modules that are gone"
    assert not {name for name in listed if has_test(name)}, "they have their own test file by now"
    assert not {file for file in TESTED_IN.values() if not (PACKAGE_ROOT.parent / file).exists()}
