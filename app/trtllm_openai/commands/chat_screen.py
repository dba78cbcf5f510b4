"""The terminal of `chat`: reads messages and slash commands, streams answers, thinking dim, then a line of
speed.

What a model says cannot control the terminal: control characters are not printed.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trtllm_openai.commands.client import Client
from trtllm_openai.commands.talk import Talk
from trtllm_openai.errors import InvalidRequest

HISTORY_LINES = 1000
BLOCK = '"""'
"""Begins and ends a message of several lines."""
DIM, RESET = "\x1b[2m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HELP = {
    "/help": "this list",
    "/system [TEXT]": "set the system prompt, or show it",
    "/model [ID]": "change the model, or list those of the server",
    "/params [NAME=VALUE …]": "set fields of the request, such as temperature=0.2; null removes one",
    "/retry": "answer the last message again",
    "/edit [TEXT]": "change the last message and answer it again",
    "/save FILE": "write the conversation as JSON",
    "/load FILE": "read one, and go on with it",
    "/clear": "begin anew",
    "/quit": "end; /exit and Ctrl-D do it too",
}
QUIT = ("/quit", "/exit")


class Screen:
    """One conversation on this process's standard input and output."""

    def __init__(self, client: Client, talk: Talk) -> None:
        self._client = client
        self._talk = talk
        self._dims = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/system": self._system,
            "/model": self._model,
            "/params": self._params,
            "/retry": lambda _: self._ask_again(self._talk.take_back()),
            "/edit": self._edit,
            "/save": lambda text: self._talk.save(_path(text)),
            "/load": self._load,
            "/clear": lambda _: self._talk.messages.clear(),
        }

    def talk_on(self) -> int:
        """Read and answer until /quit or the end of input; returns the exit status."""
        self._note(f"{self._talk.model} on {self._client.url}. /help lists commands, Ctrl-D ends.")
        with _history(_history_file()):
            while True:
                try:
                    text = _read_message()
                except KeyboardInterrupt:  # an empty line, as in a shell
                    print()
                    continue
                except EOFError:
                    print()
                    return 0
                if text.strip() in QUIT:
                    return 0
                if text.strip():
                    self._take(text)

    def _take(self, text: str) -> None:
        try:
            if text.startswith("/") and "\n" not in text:
                name, _, rest = text.strip().partition(" ")
                if name not in self._commands:
                    near = difflib.get_close_matches(name, [*self._commands, *QUIT], n=1)
                    guess = f"did you mean {near[0]}?" if near else "/help lists what there is."
                    raise InvalidRequest(f"There is no {name}; {guess}")
                self._commands[name](rest.strip())
            else:
                self._ask_again(text)
        except InvalidRequest as error:
            print(error)

    def answer(self) -> None:
        """Ask for the answer to the conversation, print it as it comes, and keep it.

        Ctrl-C on a terminal ends it; what was said is kept. Raises `InvalidRequest`.
        """
        begun = time.perf_counter()
        first, tokens, said, thinking = 0.0, 0, "", False
        chunks = self._client.chat(self._talk.body())
        try:
            for chunk in chunks:
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                for choice in chunk.get("choices", ()):
                    delta = choice.get("delta", {})
                    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
                    text = delta.get("content") or ""
                    if (thought or text) and not first:
                        first = time.perf_counter()
                    if thought and sys.stdout.isatty():
                        self._write(thought, dim=True)
                        thinking = True
                    if text and thinking:
                        thinking = False
                        print("\n")
                    said += text
                    self._write(text)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        finally:
            chunks.close()  # type: ignore[attr-defined]  # a generator: ends the request
            if said:
                self._talk.say("assistant", said)
        print()
        if sys.stdout.isatty():
            self._note(_speed(tokens, begun, first, time.perf_counter()))

    def _ask_again(self, text: str) -> None:
        self._talk.say("user", text)
        self.answer()

    def _help(self, _: str) -> None:
        width = max(map(len, HELP))
        for name, meaning in HELP.items():
            print(f"  {name:{width}}  {meaning}")
        print(f"  {BLOCK:{width}}  begin and end a message of several lines; Ctrl-C stops an answer")

    def _system(self, text: str) -> None:
        if text:
            self._talk.system = text
        self._note(f"system: {self._talk.system or 'none'}")

    def _model(self, text: str) -> None:
        listed = [str(one["id"]) for one in self._client.models()]
        if text and text not in listed:
            raise InvalidRequest(f"The server has no model {text}; it has {', '.join(listed)}.")
        self._talk.model = text or self._talk.model
        for name in listed:
            self._note(f"{'*' if name == self._talk.model else ' '} {name}")

    def _params(self, text: str) -> None:
        self._talk.set_parameters(text)
        self._note(json.dumps(self._talk.parameters, ensure_ascii=False))

    def _edit(self, text: str) -> None:
        before = self._talk.last_question()
        if not before:
            raise InvalidRequest("Nothing was asked yet.")
        changed = text or _read_line("edit> ", before)
        self._talk.take_back()
        self._ask_again(changed)

    def _load(self, text: str) -> None:
        self._talk.load(_path(text))
        self._note(f"{len(self._talk.messages)} messages")

    def _write(self, text: str, *, dim: bool = False) -> None:
        clean = _CONTROL.sub("", text)
        print(f"{DIM}{clean}{RESET}" if dim and self._dims else clean, end="", flush=True)

    def _note(self, text: str) -> None:
        print(f"{DIM}{text}{RESET}" if self._dims else text)


def _speed(tokens: int, begun: float, first: float, end: float) -> str:
    if not first:
        return "no answer"
    parts = [f"first token after {first - begun:.2f} s"]
    if tokens > 1 and end > first:
        parts = [f"{tokens} tokens", f"{(tokens - 1) / (end - first):.1f} tokens/s", *parts]
    return ", ".join(parts)


def _path(text: str) -> Path:
    if not text:
        raise InvalidRequest("Give the name of a file.")
    return Path(text).expanduser()


def _read_message() -> str:
    text = input("> ")
    if not text.startswith(BLOCK):
        return text
    lines = [text.removeprefix(BLOCK)]
    while not lines[-1].endswith(BLOCK) or (len(lines) == 1 and not lines[0]):
        lines.append(input("… "))
    return "\n".join(lines).removesuffix(BLOCK).strip("\n")


def _read_line(prompt: str, before: str) -> str:
    """A line that begins as `before`, where readline can do that."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_startup_hook(lambda: readline.insert_text(before))
        try:
            return input(prompt)
        finally:
            readline.set_startup_hook()
    return input(prompt)


def _history_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "trtllm-openai" / "chat_history"


@contextlib.contextmanager
def _history(path: Path) -> Iterator[None]:
    """Earlier messages on the arrow keys; those of this conversation are added to the file, for its
    owner only."""
    try:
        import readline
    except ImportError:  # a Python that was built without it
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    readline.set_completer(lambda text, index: [*_completions(text), None][index])
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


def _completions(text: str) -> list[str]:
    return [name.partition(" ")[0] for name in HELP if name.startswith(text)] if text.startswith("/") else []
