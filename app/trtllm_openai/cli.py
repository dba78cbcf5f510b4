"""The command line: the verbs of `commands/`, and errors as messages and exit statuses.

0    done
1    it cannot be done: no such model, no answer, a check that failed
2    wrong usage: flags, arguments or settings
130  interrupted by Ctrl-C (`serve` ends with 0: that is how it is stopped)
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

import click

from trtllm_openai import __version__
from trtllm_openai.commands import PROGRAM, SUMMARIES
from trtllm_openai.commands.verb import load_verb, wrong_usage
from trtllm_openai.errors import CheckpointError, ConfigError, InvalidRequest

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses."""

EXAMPLES = """\
\b
  trtllm-openai serve                      the demo model on http://127.0.0.1:8000
  trtllm-openai serve ./Llama-3.1-8B       a model of your own
  trtllm-openai chat                       talk to it
  trtllm-openai launch codex               set up a coding agent on it
  trtllm-openai doctor ./Llama-3.1-8B      what this machine lacks for it
"""


class Root(click.Group):
    """The verbs; each is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUMMARIES:
            return None
        return load_verb(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in SUMMARIES and not name.startswith("-"):
            near = difflib.get_close_matches(name, SUMMARIES, n=1)
            guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(SUMMARIES)}"
            raise click.UsageError(f"there is no command {name}; {guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


def _show_version(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        print(__version__)
        ctx.exit()


ROOT = Root(
    name=PROGRAM,
    help=f"OpenAI-compatible inference server over TensorRT-LLM and PyTorch engines.\n\n{EXAMPLES}",
    epilog=f"{PROGRAM} COMMAND --help shows a command's flags and examples.",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="show the version",
        )
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and "_TRTLLM_OPENAI_COMPLETE" in os.environ:  # a shell asks what may come next
        ROOT.main(prog_name=PROGRAM)
    try:
        status = ROOT.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        print(wrong_usage(error), file=sys.stderr)
        return WRONG_USAGE
    except ConfigError as error:
        print(f"{PROGRAM}: wrong configuration\n{error}", file=sys.stderr)
        return WRONG_USAGE
    except (CheckpointError, InvalidRequest) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        print(file=sys.stderr)
        return INTERRUPTED
    return int(status or 0)
