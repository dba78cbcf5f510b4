"""`doctor`: check that this machine has all that the configured engine needs; each problem with its fix."""

from __future__ import annotations

import click

from trtllm_openai.commands.verb import CONFIG, MODEL, Verb, settings_of


def run(config: str | None, model: str | None) -> int:
    """Print the report; returns 1 if anything needs a fix. Raises `ConfigError`."""
    settings = settings_of(click.get_current_context(), config, model)
    from trtllm_openai.commands import checks

    findings = checks.examine(settings)
    print(checks.report(findings))
    return 1 if any(finding.fix for finding in findings) else 0


command = Verb(
    "doctor",
    help="Check that this machine can serve the configured model, without loading it. Takes the flags of "
    "serve, and refuses what serve would refuse. Exit status 1 if anything needs a fix.",
    run=run,
    params=[MODEL, CONFIG],
    examples=[
        ("trtllm-openai doctor ./Llama-3.1-8B", "a checkpoint for the torch engine"),
        ("trtllm-openai doctor --config prod.yaml", "the settings of a file"),
    ],
    settings=True,
)
