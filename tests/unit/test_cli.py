"""The command line as a user meets it: output, errors in a sentence, exit statuses."""

import ast
import dataclasses
import hashlib
import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from tests.conftest import python_path
from tests.fakes.engine_dir import make_engine_dir
from trtllm_openai.api.auth import Keys
from trtllm_openai.cli import main
from trtllm_openai.commands import SUMMARIES
from trtllm_openai.commands import key as key_command
from trtllm_openai.config.flags import flags
from trtllm_openai.runners.tenants import KeyLimits
from trtllm_openai.text.tokenizer import Tokenizer

FAKES = Path(__file__).parents[1] / "fakes"
KOREAN = "대한민국의 수도는"


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_engine_dir(tmp_path, world=2)
    assert main(["inspect", str(directory)]) == 0
    table = capsys.readouterr().out
    assert "tensor parallel                   2\n" in table
    assert "kv cache bytes for a full batch   188743680 (0.18 GiB)\n" in table
    assert main(["inspect", str(directory / "engine"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["world_size"], facts["version"], facts["weights_bytes_per_gpu"]) == (2, "1.2.1", 100)
    assert main(["inspect", str(tmp_path / "absent")]) == 1
    assert "There is no engine directory or checkpoint" in capsys.readouterr().err


def test_generate_on_the_torch_engine(demo_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "generate",
        "--model",
        str(demo_dir),
        "--torch.max-seq-len",
        "256",
        "--torch.dtype",
        "float32",
    ]
    assert (
        main([*arguments, "--prompt", "The capital of France is", "--max-tokens", "3", "--temperature", "0"])
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out.startswith(" Paris")
    assert captured.err.startswith("3 tokens in ")
    assert main([*arguments, "--prompt", "x", "--max-tokens", "300"]) == 1
    assert "maximum context length is 256 tokens" in capsys.readouterr().err


def test_the_answer_is_alone_on_standard_output() -> None:
    """Libraries print, and C++ writes to the descriptor itself."""
    program = """if True:
        import os
        from trtllm_openai.commands.completing import answer_alone
        with answer_alone() as answer:
            print("a library's line", flush=True)
            os.write(1, b"a line of C++\\n")
            answer.write("the answer\\n")
        print("afterwards")
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path(FAKES)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "the answer\nafterwards\n"
    assert done.stderr == "a library's line\na line of C++\n"


def test_generate_on_the_fake_executor_is_the_recipe(
    demo_dir: Path,
    demo_tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """engine/ and tokenizer/ in the working directory; an engine built for one sequence."""
    make_engine_dir(tmp_path, tokenizer=demo_dir, max_batch_size=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    recipe = [
        "--prompt",
        KOREAN,
        "--max-tokens",
        "64",
        "--temperature",
        "0.7",
        "--top-p",
        "0.9",
        "--seed",
        "0",
    ]
    try:
        assert main(["generate", "--engine", "tensorrt_llm", *recipe]) == 0
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]
    assert capsys.readouterr().out == KOREAN + "\n"  # seed 0 shifts nothing


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["generate", "--prompt", "x", "--max-tokens", "0"], 2, "--max-tokens"),
        (["generate", "--prompt", "x", "--model", "/nowhere"], 1, "/nowhere"),
        (["serve", "--config", "/nowhere.yaml"], 2, "/nowhere.yaml"),
    ],
)
def test_errors(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-certificate", "/absent.pem"], "tls_certificate, tls_key: cannot be loaded"),
        (["--tls-certificate", __file__], "tls_certificate, tls_key: cannot be loaded"),
        (["--tls-key", __file__], "tls_key: it requires tls_certificate"),
        (["--api-keys-file", "/absent"], "api_keys_file: "),
    ],
)
def test_files_that_cannot_be_used_are_told_before_anything_starts(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--engine", "synthetic", "--port", "0", *flags]) == 2
    assert said in capsys.readouterr().err


def test_flags_cannot_be_abbreviated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--api-keys` of serve is no short form of `--api-keys-file`, and its value is not printed."""
    for words in (["--api-keys", "sk-secret"], ["--api-keys=sk-secret"], ["model", "sk-secret"]):
        assert main(["serve", "--engine", "synthetic", "--port", "0", *words]) == 2
        assert "sk-secret" not in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--js"]) == 2
    assert "there is no flag --js; did you mean --json?\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prot", "1"], "trtllm-openai serve: there is no flag --prot; did you mean --port?"),
        (
            ["serve", "--dtype", "x"],
            "trtllm-openai serve: there is no flag --dtype; did you mean --torch.dtype?",
        ),
        (
            ["serve", "--torch.max_batchsize", "1"],
            "trtllm-openai serve: there is no flag --torch.max-batchsize; did you mean "
            "--torch.max-batch-size",
        ),
        (
            ["serve", "--no-open-heath"],
            "trtllm-openai serve: there is no flag --no-open-heath; did you mean --no-open",
        ),
        (["serve", "--open-health=maybe"], "trtllm-openai serve: --open-health: must be true or false"),
        (["serve", "a", "b"], "trtllm-openai serve: too many arguments"),
        (["serve", "a", "--model", "b"], "trtllm-openai serve: the model is given twice"),
        (["serv"], "trtllm-openai: there is no command serv; did you mean serve?"),
        (["sing"], "trtllm-openai: there is no command sing; there are serve, "),
        (["key"], "trtllm-openai key: Missing argument 'NAME'"),
        ([], "trtllm-openai: Missing command"),
    ],
)
def test_wrong_usage_is_told_before_anything_else(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(said)
    assert hint.startswith("Try 'trtllm-openai")
    assert hint.endswith("--help'.")


@pytest.mark.parametrize("verb", SUMMARIES)
def test_help_shows_examples_and_then_own_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.index("Examples:") < said.index("Options:")
    for title in ("Settings that most need:", "All other settings:", "Settings of torch:"):
        assert (title in said) == (verb in ("serve", "generate", "doctor"))
    if "Settings" in said:
        assert said.index("--config") < said.index("Settings that most need:") < said.index("--torch.dtype")
        for flag in flags().values():
            assert flag.kind == "section" or flag.flag in said


@pytest.mark.parametrize("verb", SUMMARIES)
def test_examples_can_be_typed(verb: str) -> None:
    """The flags of every example are flags, and its arguments are taken."""
    command = importlib.import_module(f"trtllm_openai.commands.{verb}").command
    for line, _ in command.examples:
        for part in line.split("|"):
            words = shlex.split(part.removeprefix('eval "$(').removesuffix(')"'), comments=True)
            if words[0] == "trtllm-openai":
                words = words[: words.index(">")] if ">" in words else words
                assert words[1] == verb
                command.make_context(verb, words[2:])


def test_help_imports_little() -> None:
    """It must stay quick: below 0.3 s on an idle machine, which modules decide."""
    program = """if True:
        import sys
        from trtllm_openai.cli import main
        main(sys.argv[1:])
        slow = {"torch", "transformers", "fastapi", "pydantic", "rich", "asyncio", "httpx", "tokenizers"}
        print(sorted(slow & set(sys.modules)), file=sys.stderr)
    """
    for arguments, heavy in ((["--help"], []), (["serve", "--help"], ["pydantic"])):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": python_path()},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert set(ast.literal_eval(done.stderr)) <= set(heavy), arguments


def test_completion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "_TRTLLM_OPENAI_COMPLETE" in capsys.readouterr().out
    words = "trtllm-openai serve --tool-parser lla"
    done = subprocess.run(
        [sys.executable, "-m", "trtllm_openai"],
        env={
            **os.environ,
            "PYTHONPATH": python_path(),
            "_TRTLLM_OPENAI_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "plain,llama3_json\n"


def test_key_prints_the_hash_of_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "alice", "--scopes", "api,admin"]) == 0
    _, key, _, line = map(str.strip, capsys.readouterr().out.splitlines())
    assert line == f"alice api,admin {hashlib.sha256(key.encode()).hexdigest()}"
    assert main(["key", "two words"]) == 2
    assert "name: must be printable" in capsys.readouterr().err


def test_key_appends_its_line_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    made = []
    for name in ("alice", "bob"):
        assert main(["key", name, "--append", str(file)]) == 0
        said = capsys.readouterr().out
        made.append(said.splitlines()[1].strip())
        assert hashlib.sha256(made[-1].encode()).hexdigest() not in said
        file.write_text(file.read_text().rstrip("\n"))  # as some editors leave it
    assert file.stat().st_mode & 0o777 == 0o600
    keys = Keys(file)
    for name, key in zip(("alice", "bob"), made, strict=True):
        assert keys.check(Headers({"authorization": f"Bearer {key}"}), "/v1/models") == name


def test_key_has_a_flag_for_every_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(key_command.LIMITS) == tuple(field.name for field in dataclasses.fields(KeyLimits))
    flags = [
        *("--requests-per-minute", "60", "--tokens-per-minute", "100000", "--concurrent", "8"),
        *("--max-tokens", "2048", "--priority", "0.3"),
    ]
    limits = KeyLimits(60, 100_000, 8, 2048, 0.3)
    assert main(["key", "alice", *flags]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert KeyLimits.parse(line.split()[3:]) == limits
    file = tmp_path / "keys"
    assert main(["key", "alice", "--append", str(file), *flags]) == 0
    assert main(["key", "bob", "--append", str(file)]) == 0
    assert main(["key", "alice", "--append", str(file)]) == 0, "a second key of a name has its limits"
    found = Keys(file)
    assert (found.limits("alice"), found.limits("bob"), found.limits("eve")) == (limits, KeyLimits(), None)
    before = file.read_text()
    for name in ("alice", "bob"):
        assert main(["key", name, "--append", str(file), "--concurrent", "7"]) == 2
        assert f"{name} has other limits there" in capsys.readouterr().err
    assert main(["key", "eve", "--append", str(file), "--priority", "2"]) == 2
    assert "priority must be a number from 0 to 1" in capsys.readouterr().err
    assert file.read_text() == before


def test_key_appends_to_nothing_but_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "config.yaml"
    other.write_text("port: 9\n")
    for file, said in ((other, "line 1: expected NAME"), (tmp_path, "Is a directory")):
        assert main(["key", "alice", "--append", str(file)]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
    assert other.read_text() == "port: 9\n"
