"""tests/unit mirrors the package: every module with logic has the test file of its name, or a reason here."""

from tests.conftest import PACKAGE_ROOT

PACKAGE = PACKAGE_ROOT / "trtllm_openai"
UNIT = PACKAGE_ROOT.parent / "tests" / "unit"

PENDING = ("api/", "engine_host/", "engines/", "protocol/", "runners/", "serve/", "telemetry/")
"""Folders whose lists are not settled."""

TESTED_IN = {
    # One property suite over all formats: any text, cut anywhere, gives the same events.
    "chat/parsers/hermes.py": "tests/unit/chat/test_parsers.py",
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
    # Sockets and processes: driven against a server whose pace is known.
    "bench/client.py": "tests/e2e/test_bench.py",
    "bench/flags.py": "tests/e2e/test_bench.py",
    "bench/run.py": "tests/e2e/test_bench.py",
    "bench/worker.py": "tests/e2e/test_bench.py",
    # Its output is the demo's tokenizer, which every test of text loads and compares with transformers' own.
    "checkpoints/gguf_tokenizer.py": "tests/unit/text/test_tokenizer.py",
    # A whole engine is loaded and generates.
    "commands/generate.py": "tests/unit/test_cli.py",
    # Refusals differ by engine and wire field, so they are tested where both meet.
    "generation/build.py": "tests/e2e/test_raw.py",
    "__main__.py": "tests/e2e/conftest.py",
}
"""Modules that are tested elsewhere, each group with the reason."""

WITHOUT_LOGIC = {
    "errors.py": "exception classes with their fields",
    "generation/types.py": "msgspec structs",
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
