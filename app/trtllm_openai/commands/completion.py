"""`completion SHELL`: the script that completes verbs, flags, values and files in bash, zsh or fish."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from trtllm_openai.commands.verb import Verb

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_TRTLLM_OPENAI_COMPLETE"


def run(shell: str) -> int:
    """Print the script."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    script = kind(root.command, {}, "trtllm-openai", VARIABLE)
    # click's own `source` runs bash to see its version; the script is the same for every one.
    print(script.source_template % script.source_vars())
    return 0


command = Verb(
    "completion",
    help="Print the completion script of a shell.",
    run=run,
    params=[click.Argument(["shell"], type=click.Choice(SHELLS))],
    examples=[
        ('eval "$(trtllm-openai completion bash)"', "in ~/.bashrc; the same for zsh in ~/.zshrc"),
        ("trtllm-openai completion fish > ~/.config/fish/completions/trtllm-openai.fish", "for fish"),
    ],
)
