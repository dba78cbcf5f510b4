"""Templates render as transformers renders them, in a sandbox, and fail as a client's error."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trtllm_openai.chat.template import ChatTemplate
from trtllm_openai.errors import CheckpointError, InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

USER = [{"role": "user", "content": "<b>&안녕</b>"}]
TEMPLATES = {
    "plain": "{{ bos_token }}{% for m in messages %}\n  {{ m.role }}: {{ m['content'] }}\n{% endfor %}\n",
    "generation tag": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "prompt": "{% if add_generation_prompt %}go{% endif %}{% if tools %}tools{% endif %}",
    "date": "{{ strftime_now('%Y') | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_as_transformers(demo_dir: Path, demo_tokenizer: Tokenizer, name: str) -> None:
    theirs = AutoTokenizer.from_pretrained(demo_dir)
    expected = theirs.apply_chat_template(
        USER, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    ours = ChatTemplate(TEMPLATES[name], demo_tokenizer.special_tokens)
    assert ours.render(USER) == expected


def test_the_demos_own(demo_dir: Path, demo_tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(demo_dir)
    assert demo_tokenizer.chat_template is not None
    ours = ChatTemplate(demo_tokenizer.chat_template, demo_tokenizer.special_tokens)
    talk = [{"role": "system", "content": "s"}, *USER, {"role": "assistant", "content": "a"}, *USER]
    assert ours.render(talk) == theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "cannot render"),
        ("{{ 1 / 0 }}", "cannot render .*ZeroDivisionError"),
        ("{{ [1][2.0 ** 5000] }}", "cannot render .*OverflowError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot render .*recursion"),
        ("{% include 'x' %}", "cannot render .*no loader"),
        ("{{ ''.__class__.__mro__ }}{{ messages.append(1) }}", "refuses"),
    ],
)
def test_failures_are_the_requests(source: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        ChatTemplate(source, {}).render(list[Any](USER))
    assert caught.value.param == "messages"


def test_a_template_that_is_none() -> None:
    said = r"The chat template /m/chat_template\.jinja, line 2, cannot be compiled: Expected an expression"
    with pytest.raises(CheckpointError, match=said):
        ChatTemplate("hello\n{% if %}", {}, file="/m/chat_template.jinja")
