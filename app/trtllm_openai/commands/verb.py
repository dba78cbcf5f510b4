"""A verb of the command line as a click command: its help, its examples, and a flag for every setting.

Help shows a verb's own flags first, then the settings that most users need, then all others by section.
Flags are written with `-` or `_`; a setting that is a switch is `--flag`, `--no-flag`, `--flag=false` or
`--flag false`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trtllm_openai.config import Settings
    from trtllm_openai.config.flags import Flag

COMMON = (
    "model",
    "engine",
    "host",
    "port",
    "served_model_name",
    "replicas",
    "gpus",
    "api_key",
    "api_keys_file",
    "tool_parser",
    "reasoning_parser",
    "torch.tensor_parallel_size",
    "torch.quantization",
    "torch.max_seq_len",
    "log_level",
)
"""Settings that most users need, in the order of help."""
GIVEN = "trtllm_openai.settings"
"""Key in the context's `meta`: texts of settings by their key."""
_TRUTH = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_METAVARS = {
    "text": "TEXT",
    "integer": "N",
    "number": "X",
    "list": "A,B",
    "map": "KEY=VALUE",
    "section": "JSON",
}


class SettingType(click.types.StringParamType):
    """The text of a setting: pydantic validates it. Here are only its name in help, and its completion."""

    def __init__(self, flag: Flag, is_path: bool) -> None:
        self._flag = flag
        self._is_path = is_path

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        if self._is_path or self._flag.verbatim:
            return "PATH" if self._is_path else "TEXT"
        return "|".join(self._flag.choices) or _METAVARS[self._flag.kind]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        item = click.shell_completion.CompletionItem
        if self._is_path:
            return [item(incomplete, type="file")]
        return [item(one) for one in self._flag.choices if one.startswith(incomplete)]


class Verb(click.Command):
    """A command with examples, and with a flag for every setting if `settings` is true.

    Its callback then gets the texts of the settings through `settings_of`.
    """

    def __init__(
        self,
        name: str,
        *,
        help: str,
        run: Callable[..., int],
        params: Sequence[click.Parameter] = (),
        examples: Sequence[tuple[str, str]] = (),
        settings: bool = False,
    ) -> None:
        """`examples`: pairs of a command line and what it does. `run` returns the exit status."""
        self.examples = examples
        self.own = list(params)
        super().__init__(
            name,
            help=help,
            callback=run,
            params=self.own,
            context_settings={
                "help_option_names": ["-h", "--help"],
                "token_normalize_func": _with_dashes,
                "max_content_width": 110,
            },
        )
        self._with_settings = settings
        self._complete = not settings

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._complete:  # the settings are imported when a verb that has them is used
            self._complete = True
            self.params = [*self.own, *_settings_options()]
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self._with_settings:
            switches = {option.opts[0] for option in self.get_params(ctx) if _is_switch(option)}
            args = list(_plain_switches(ctx, args, switches))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_help_text(ctx, formatter)
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}# {meaning}\n")
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        for title, params in _sections([param for param in self.get_params(ctx) if param.name != "help"]):
            rows = [row for param in params if (row := param.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class SettingOption(click.Option):
    """The flag of one setting; its text goes to `GIVEN` and not to the callback."""

    def __init__(self, flag: Flag, is_path: bool) -> None:
        self.flag = flag
        switch = flag.kind == "switch"
        names = [f"{flag.flag}/--no-{flag.flag[2:]}"] if switch else [flag.flag]
        shown = (
            "" if flag.default in (None, [], {}) or flag.kind == "section" else f"  [{_shown(flag.default)}]"
        )
        super().__init__(
            ["setting__" + flag.key.replace(".", "__"), *names],
            type=None if switch else SettingType(flag, is_path),
            multiple=not switch,
            default=None,
            expose_value=False,
            callback=self._keep,
            help=flag.help + shown,
        )

    def _keep(self, ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value in (None, ()):
            return
        texts = [str(value).lower()] if isinstance(value, bool) else list(value)
        ctx.meta.setdefault(GIVEN, {})[self.flag.key] = texts

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0], self.help or "")


def settings_of(ctx: click.Context, config: str | None, model: str | None = None) -> Settings:
    """The settings of a verb that has them; `model` is its argument. Raises `ConfigError` or `UsageError`."""
    from trtllm_openai.config import load_settings

    given = dict(ctx.meta.get(GIVEN, {}))
    if model is not None:
        if given.get("model", [model]) != [model]:
            raise click.UsageError(f"the model is given twice: {model} and --model", ctx)
        given["model"] = [model]
    return load_settings(given, config)


class Described(click.Argument):
    """An argument with a line in help."""

    def __init__(self, name: str, text: str, **options: Any) -> None:
        super().__init__([name], **options)
        self.text = text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.name.upper() if self.name else "", self.text


def load_verb(name: str) -> Verb:
    """The verb of this name, whose module is imported. `name`: one of `commands.SUMMARIES`."""
    command = importlib.import_module(f"trtllm_openai.commands.{name}").command
    assert isinstance(command, Verb)
    return command


CONFIG = click.Option(
    ["--config"], metavar="FILE", help="settings file; without it config.yaml, if there is one"
)
URL = click.Option(
    ["--url"],
    default="http://127.0.0.1:8000",
    show_default=True,
    help="base URL of the server, with or without /v1",
)
API_KEY = click.Option(
    ["--api-key"],
    metavar="KEY",
    envvar="TRTLLM_OPENAI_API_KEY",
    help="its key; the environment variable TRTLLM_OPENAI_API_KEY keeps it out of the list of processes",
)
MODEL = Described("model", "the same as --model", required=False, type=click.Path())
"""The setting `model` as an argument."""


def wrong_usage(error: click.UsageError) -> str:
    """What is wrong, then where help is. Values are left out: one may be a secret."""
    message = error.format_message()
    path = error.ctx.command_path if error.ctx is not None else "trtllm-openai"
    if isinstance(error, click.NoSuchOption):
        names = _names(error.ctx)
        near = difflib.get_close_matches(_with_dashes(error.option_name), names, n=2, cutoff=0.7)
        last = [name for name in names if name.rpartition(".")[2] == error.option_name.lstrip("-")]
        guess = " or ".join(near or last[:2])
        message = f"there is no flag {error.option_name}" + (f"; did you mean {guess}?" if guess else "")
    elif message.startswith("Got unexpected extra argument"):
        message = "too many arguments"
    return f"{path}: {message}\nTry '{path} --help'."


def _names(ctx: click.Context | None) -> list[str]:
    if ctx is None:
        return []
    return [name for param in ctx.command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)]


def _with_dashes(name: str) -> str:
    return name.replace("_", "-")


def _settings_options() -> list[click.Parameter]:
    from trtllm_openai.config.flags import PATHS, flags

    return [SettingOption(flag, flag.key in PATHS) for flag in flags().values()]


def _is_switch(param: click.Parameter) -> bool:
    return isinstance(param, SettingOption) and param.flag.kind == "switch"


def _plain_switches(ctx: click.Context, args: Sequence[str], switches: set[str]) -> Iterator[str]:
    """`--flag=false` and `--flag false` as `--no-flag`."""
    index = 0
    while index < len(args):
        name, equals, value = args[index].partition("=")
        name = _with_dashes(name)
        following = args[index + 1 : index + 2]
        if name == "--":
            break
        if name not in switches:
            yield args[index]
        elif equals and value.lower() not in _TRUTH:
            raise click.UsageError(f"{name}: must be true or false", ctx)
        elif equals:
            yield _switch(name, value)
        elif following and following[0].lower() in _TRUTH:
            yield _switch(name, following[0])
            index += 1
        else:
            yield name
        index += 1
    yield from args[index:]


def _switch(name: str, value: str) -> str:
    return name if _TRUTH[value.lower()] else f"--no-{name[2:]}"


def _sections(params: Sequence[click.Parameter]) -> Iterator[tuple[str, list[click.Parameter]]]:
    """The verb's own parameters, common settings, the other settings of the server, and each section."""
    own = [param for param in params if not isinstance(param, SettingOption)]
    yield "Options", own
    settings = {param.flag.key: param for param in params if isinstance(param, SettingOption)}
    yield "Settings that most need", [settings[key] for key in COMMON if key in settings]
    rest = [param for key, param in settings.items() if key not in COMMON]
    sections = list(dict.fromkeys(param.flag.section for param in rest))
    for section in sections:
        inside = [one for one in rest if one.flag.section == section and one.flag.kind != "section"]
        yield (f"Settings of {section}" if section else "All other settings"), list(inside)


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
