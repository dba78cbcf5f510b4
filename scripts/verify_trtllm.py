"""Proves the tensorrt_llm engine on a machine that has TensorRT-LLM and GPUs; prints a table.

    python scripts/verify_trtllm.py ENGINE_DIR TOKENIZER_DIR [-- flags for serve]

First every name that the server uses is checked against the installed package. Then the engine is served
twice and asked over HTTP for everything that the server relies on: once with all its places, and once with a
single one, so that requests queue. With several ranks the second server runs in the other launch mode, if
mpirun is there, and in each mode a rank is killed. An engine with LoRA is asked for its adapters if the flags
name some, one for lookahead decoding for what that means. A row that fails says what differs, one that does
not apply says why. Exit status 0: all of it holds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.trtllm_checks.adapters import (
    EVICTED,
    cache_for_one,
    check_adapters,
    check_evicted,
    given_adapters,
    inapplicable,
)
from scripts.trtllm_checks.answers import check_answers
from scripts.trtllm_checks.limits import FLAGS, check_killed_rank, check_limits
from scripts.trtllm_checks.lookahead import check_lookahead
from scripts.trtllm_checks.names import check_names
from scripts.trtllm_checks.server import started
from scripts.trtllm_checks.table import Row, printed
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, read_engine_dir
from trtllm_openai.engines.tensorrt_llm.loader import import_bindings
from trtllm_openai.engines.tensorrt_llm.speculative import LOOKAHEAD
from trtllm_openai.errors import CheckpointError, ConfigError

PROMPT_TOKENS = 64
"""At least what the prompts of the checks have."""
NOT_LOOKAHEAD = "does not apply: the engine was not built for lookahead decoding"


def verify(engine_dir: str, tokenizer: str, flags: list[str]) -> list[Row]:
    """All rows. The servers' own output goes to standard error."""
    try:
        package, bindings = import_bindings()
        engine = read_engine_dir(Path(engine_dir))
        adapters = given_adapters(engine, flags)
    except (ConfigError, CheckpointError) as error:
        return [Row("import", False, str(error))]
    table = [Row("import", True, f"tensorrt_llm {package.__version__}"), *check_names(bindings)]
    tokens = engine.max_seq_len - PROMPT_TOKENS
    several = engine.world_size > 1
    first, second = launches(engine, flags)
    names, no_adapters = [one.name for one in adapters], inapplicable(engine, adapters)
    lookahead = engine.speculative_decoding == LOOKAHEAD  # the server refuses it together with guides
    guided = ["--tensorrt-llm.guided-decoding", "false" if lookahead else "true"]
    with started(engine_dir, tokenizer, [*guided, *launch(first), *flags], first, table) as server:
        if server is not None:
            table += check_answers(server, engine.speculative_decoding)
            table += [Row("LoRA", True, no_adapters)] if no_adapters else check_adapters(server, names)
            table += check_lookahead(server) if lookahead else [Row("lookahead", True, NOT_LOOKAHEAD)]
            if several:
                table.append(check_killed_rank(server, first, tokens))
    few = [*FLAGS, *cache_for_one(engine, adapters)]
    with started(
        engine_dir, tokenizer, [*few, *launch(second), *flags], f"{second}, one place", table
    ) as server:
        if server is not None:
            table += check_limits(server, tokens)
            table.append(Row(EVICTED, True, no_adapters) if no_adapters else check_evicted(server, names))
            if several and second != first:
                table.append(check_killed_rank(server, second, tokens))
    return table


def launches(engine: EngineDir, flags: list[str]) -> tuple[str, str]:
    """How the two servers reach their ranks: in both modes, unless the flags say one or mpirun is missing."""
    if engine.world_size == 1:
        return "one GPU", "one GPU"
    if any(flag.startswith("--tensorrt-llm.launch") for flag in flags):
        return "as the flags say", "as the flags say"
    return "orchestrator", "leader" if shutil.which("mpirun") else "orchestrator"


def launch(mode: str) -> list[str]:
    """The flags of a launch mode."""
    return ["--tensorrt-llm.launch", mode] if mode in ("orchestrator", "leader") else []


def main() -> int:
    """Print the table; 0 if every row holds."""
    arguments = sys.argv[1:]
    flags = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if len(given) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    table = verify(given[0], given[1], flags)
    print(printed(table))
    return 0 if all(row.ok for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
