"""Late system messages and uncommon roles reach the model, or are refused."""

from typing import Any

import pytest

from tests.unit.chat.templates import FAMILIES, TOKENS
from trtllm_openai.chat import odd_messages
from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.odd_messages import render_all, system_first
from trtllm_openai.chat.template import ChatTemplate
from trtllm_openai.errors import InvalidRequest


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


FIRST, LATE, HI = message("system", "Be brief."), message("system", "It is late."), message("user", "Hi")
ANSWER, BYE = message("assistant", "Hello"), message("user", "Bye")


class Drawn:
    """A template, and how often it was rendered."""

    def __init__(self, source: str) -> None:
        self.template = ChatTemplate(source, TOKENS)
        self.count = 0

    def __call__(self, messages: list[Message]) -> str:
        self.count += 1
        return self.template.render(messages, {"add_generation_prompt": False})


def rendered(family: str, *messages: Message) -> str:
    return render_all(list(messages), Drawn(FAMILIES[family]))


@pytest.mark.parametrize("family", ["chatml", "headers", "documents"])
def test_a_late_system_message_keeps_its_place_where_the_template_renders_it(family: str) -> None:
    text = rendered(family, FIRST, HI, ANSWER, LATE, BYE)
    assert text.index("Be brief.") < text.index("Hello") < text.index("It is late.") < text.index("Bye")


@pytest.mark.parametrize("family", ["thinking", "instructions"])
def test_it_is_merged_into_the_first_where_the_template_refuses_it(family: str) -> None:
    for talk in ([FIRST, HI, ANSWER, LATE, BYE], [FIRST, LATE, HI, ANSWER, BYE]):
        assert rendered(family, *talk) == rendered(
            family, message("system", "Be brief.\n\nIt is late."), HI, ANSWER, BYE
        )
    alone = rendered(family, HI, ANSWER, LATE, BYE)
    assert alone == rendered(family, LATE, HI, ANSWER, BYE)


def test_it_is_merged_where_the_template_leaves_it_out() -> None:
    only_first = (
        "{{ messages[0].content }}{% for m in messages if m.role == 'user' %}<{{ m.content }}>{% endfor %}"
    )
    assert render_all([FIRST, HI, LATE, BYE], Drawn(only_first)) == "Be brief.\n\nIt is late.<Hi\n\nBye>"


def test_messages_of_the_user_that_meet_become_one() -> None:
    merged = system_first([HI, LATE, BYE, ANSWER, HI, BYE, message("system", "")])
    assert merged == [message("system", "It is late."), message("user", "Hi\n\nBye"), ANSWER, HI, BYE]
    assert rendered("instructions", HI, LATE, BYE) == "<s>[INST] It is late.\n\nHi\n\nBye [/INST]"


def test_what_the_template_refuses_anyway_has_its_own_message() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        rendered("instructions", HI, BYE)
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        rendered("instructions", HI, LATE, ANSWER, ANSWER)


def test_an_uncommon_role_that_is_left_out_is_refused() -> None:
    note = message("note", "Remember.")
    with pytest.raises(InvalidRequest, match="leaves out messages of the role 'note'") as caught:
        rendered("thinking", HI, note)
    assert caught.value.param == "messages"
    assert "Remember." in rendered("chatml", HI, note)


def test_an_uncommon_role_that_the_template_reads_in_its_own_way() -> None:
    listing = message("ipython", 'He said "no"\n')
    assert 'He said \\"no\\"' in rendered("headers", HI, listing)
    shouts = "{% for m in messages %}{{ m.content | upper if m.role == 'x' else m.content }}{% endfor %}"
    assert render_all([HI, message("x", "abc")], Drawn(shouts)) == "HiABC"
    refuses = "{{ messages[0].content }}{% if messages | length < 2 %}{{ raise_exception('few') }}{% endif %}"
    assert render_all([HI, message("x", "abc")], Drawn(refuses)) == "Hi"


def test_the_search_for_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, lost = message("note", "kept"), message("note", "lost")
    some = "{% for m in messages if m.content != 'lost' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidRequest, match="'note'"):
        render_all([HI, kept, lost], Drawn(some))
    monkeypatch.setattr(odd_messages, "MAX_SEARCHED", 1)
    assert render_all([HI, kept, lost], Drawn(some)) == "Hikept"


@pytest.mark.parametrize(
    ("talk", "times"), [([FIRST, HI, ANSWER, BYE], 1), ([HI, LATE], 1), ([HI, message("x", "abc")], 1)]
)
def test_a_conversation_is_rendered_once(talk: list[Any], times: int) -> None:
    drawn = Drawn(FAMILIES["chatml"])
    render_all(talk, drawn)
    assert drawn.count == times
