"""A template that computes without end, or makes too much, is stopped; none is changed otherwise."""

import resource
import time
from typing import Any

import pytest

from trtllm_openai.chat.sandbox import LongRendering
from trtllm_openai.chat.template import ChatTemplate
from trtllm_openai.errors import InvalidRequest

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "ab"}]
LOOPS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
MACRO = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
GROWING = "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"


def template(source: str, **limits: Any) -> ChatTemplate:
    return ChatTemplate(source, {}, **{"timeout_s": 0.2, "max_length": 100_000, **limits})


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize(
    "source",
    [
        LOOPS,
        MACRO,
        "{% for i in range(100000) if range(100000) | select('eq', -1) | list %}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    ],
)
def test_time_is_bounded(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"render_timeout|recursion") as caught:
        template(source).render(MESSAGES)
    assert caught.value.param == "messages"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("source", [LOOPS, MACRO])
def test_a_rendering_without_a_deadline_is_given_steps(source: str) -> None:
    with pytest.raises(LongRendering):
        template(source).render(MESSAGES, steps=1000)


def test_a_range_counts_by_its_length() -> None:
    with pytest.raises(LongRendering):
        template("{{ range(100000) | list | length }}").render(MESSAGES, steps=1000)


def test_a_short_conversation_takes_few_steps() -> None:
    subject = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert subject.render(MESSAGES * 10, steps=10) == "ab" * 10
    with pytest.raises(LongRendering):
        subject.render(MESSAGES * 11, steps=10)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10**10 * 'a' }}",
        "{{ ([messages[0].content] * 10**9) | length }}",
        "{{ (messages[0].content * 90000) | length }}{{ 'a' * 100001 }}",
        "{{ 10 ** 99999 }}",
        "{{ (10 ** 500) ** 500 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ messages[0].content.rjust(10000000000) }}",
        "{{ 'a' | indent(10000000000, first=true) }}",
        "{{ messages | tojson(indent=10000000000) }}",
        "{{ '%10000000000s' % 'a' }}",
        "{{ '%*s' % (10000000000, 'a') }}",
        "{{ '%10000000000s' | format('a') }}",
        "{{ '{:10000000000}'.format('a') }}",
        "{{ '{:{}}'.format('a', 10000000000) }}",
        "{{ '{a:10000000000}'.format_map({'a': 'b'}) }}",
        "{% set f = 'a'.format %}{% set g = '{:10000000000}'.format %}{{ f() }}{{ g('a') }}",
        "{% for f in ['{:10000000000}'] | map(attribute='format') %}{{ f('a') }}{% endfor %}",
        "{{ '%(a)10000000000s' % {'a': 1} }}",
        "{{ (('{0:99999}' * 2000).format('a')) | length }}",
        "{{ (('%(a)99999s' * 2000) % {'a': 'a'}) | length }}",
        "{{ ('{0}' * 2000).format('a' * 90000) | length }}",
        "{{ ('%(a)s' * 2000) | format(a='a' * 90000) | length }}",
        "{{ (('%(a)s' * 2000) % {'a': 'a' * 90000}) | length }}",
        GROWING,
        GROWING.replace("+", "~"),
        "{% for i in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
        "{% macro m() %}{% for i in range(99999) %}{{ 'abc' }}{% endfor %}{% endmacro %}{{ m() | length }}",
        "{% set x %}{% for i in range(99999) %}{{ 'abc' }}{% endfor %}{% endset %}{{ x | length }}",
        "{{ ('a' * 90000).replace('a', 'b' * 90000) | length }}",
        "{{ ('a' * 90000) | replace('a', 'b' * 90000) | length }}",
        "{{ ('a' * 90000).join(range(90000) | map('string')) | length }}",
        "{{ range(90000) | join('a' * 90000) | length }}",
        "{% set s = namespace(l=[]) %}{% for i in 'abcdef' %}{% set s.l = s.l + ['a' * 90000] %}{% endfor %}",
    ],
)
def test_memory_is_bounded(source: str) -> None:
    before = peak_bytes()
    with pytest.raises(InvalidRequest, match="template was stopped"):
        template(source, timeout_s=20).render(MESSAGES)
    assert peak_bytes() - before < 100 << 20


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a' + 'b' + messages[0].content + 'c' ~ 1 ~ 'd' }}", "ababc1d"),
        ("{{ 2 * 3 + 2 ** 3 }} {{ '%5s|%d%%' % ('a', 123456) }}", "14     a|123456%"),
        ("{{ '%(a)s-%(a)3d' % {'a': 1} }}{{ '{a}{b:>2}'.format_map({'a': 1, 'b': 2}) }}", "1-  11 2"),
        ("{{ '{} 1234567 {:>3}'.format('a', 1) }}{{ ', '.join(['a', 'b']) }}", "a 1234567   1a, b"),
        (
            "{{ ['a', 'b'] | join('-') }}{{ 'aXa' | replace('X', 'yy') }}{{ 'x'.replace('x', 'z') }}",
            "a-bayyaz",
        ),
        ("{{ messages | join(', ', attribute='content') }}{{ 'a' | center(3) }}", "ab a "),
        (
            "{% for i in range(5) if i % 2 %}{{ loop.index }}{{ loop.last }}{{ i }}{% endfor %}",
            "1False12True3",
        ),
        ("{% block b %}{% for i in [1] %}{{ i + 1 }}{% endfor %}{% endblock %}", "2"),
        ("{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(1) %}2{% endcall %}", "<12>"),
        (
            "{% filter upper %}a{{ messages[0].content[::-1] }}{% endfilter %}{% set x %}c{% endset %}{{x}}",
            "ABAc",
        ),
        ("{% for i in [[1, [2]]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}", "12"),
    ],
)
def test_what_is_within_bounds_is_unchanged(source: str, text: str) -> None:
    assert template(source).render(MESSAGES) == text
