"""`chat`: talk to any OpenAI-compatible server in the terminal."""

from __future__ import annotations

import sys
from typing import Any

import click

from trtllm_openai.commands.verb import API_KEY, URL, Described, Verb

PARAMETERS = ("temperature", "top_p", "max_tokens", "seed")


def run(
    words: str | None, url: str, api_key: str | None, model: str | None, system: str, **given: Any
) -> int:
    """Talk until /quit; with a message or a pipe, answer once. Raises `ConfigError` or `InvalidRequest`."""
    from trtllm_openai.commands.chat_screen import Screen
    from trtllm_openai.commands.client import Client
    from trtllm_openai.commands.talk import Talk

    client = Client(url, api_key)
    parameters = {name: value for name in PARAMETERS if (value := given[name]) is not None}
    talk = Talk(model or str(client.models()[0]["id"]), system, parameters)
    screen = Screen(client, talk)
    if words is None and sys.stdin.isatty():
        return screen.talk_on()
    talk.say("user", words if words is not None else sys.stdin.read())
    screen.answer()
    return 0


command = Verb(
    "chat",
    help="Talk to a server in the terminal: this one or any other with OpenAI's API. /help lists what can "
    "be typed beside messages. With PROMPT, or a message from a pipe, it answers once.",
    run=run,
    params=[
        Described("words", "one message, answered once", required=False, metavar="[PROMPT]"),
        URL,
        API_KEY,
        click.Option(["--model"], metavar="ID", help="without: the first that the server lists"),
        click.Option(["--system"], default="", metavar="TEXT", help="system prompt"),
        click.Option(["--temperature"], type=float, metavar="X", help="without: the server's"),
        click.Option(["--top-p"], type=float, metavar="X", help="without: the server's"),
        click.Option(["--max-tokens"], type=int, metavar="N", help="without: the server's"),
        click.Option(["--seed"], type=int, metavar="N", help="without: random"),
    ],
    examples=[
        ("trtllm-openai chat", "with the server on this machine"),
        ("trtllm-openai chat --url https://host/v1 --model large --system 'Be brief.'", "with another"),
        ('git diff | trtllm-openai chat --system "Write a commit message."', "one answer to a pipe"),
    ],
)
