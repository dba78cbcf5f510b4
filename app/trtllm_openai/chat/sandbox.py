"""Jinja's sandbox with a bound on the work and the memory of one rendering.

Jinja2's sandbox keeps a template from the interpreter's internals but lets it compute without end: two
nested loops over a `range`, a macro that calls itself twice, `'a' * 10**10`. Here the compiled template
counts a step for each iteration of a loop and each call of a macro, and everything that makes a string or a
list longer than its operands is measured, before it is made where the result can be much longer.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable
from types import BuiltinMethodType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_NUMBER = 100_000
"""Largest width, indentation or count that a filter or string method takes; jinja2's own limit of `range`."""
MAX_BITS = 4096
"""Largest size of an integer."""
MAX_REPLACED = 16 << 20
"""Characters that one `replace` or `join` may add."""
STEPS_BETWEEN_LOOKS = 256
"""Steps until the clock is read again."""


class TemplateLimitError(jinja2.TemplateError):
    """The rendering takes more time or memory than it may."""


class LongRendering(Exception):  # noqa: N818, no error: it is done again where it delays nobody
    """The rendering takes more steps than it was given without a deadline."""


class Work:
    """The budget of one rendering: so many `steps`, or without `steps` all that `timeout_s` allows.

    `length`: characters that the prompt may have. Four times as many may be made in all.
    """

    __slots__ = ("_deadline", "_left", "_timeout", "length", "steps")

    def __init__(self, length: int, *, steps: int | None = None, timeout_s: float = 0.0) -> None:
        self.steps = steps or STEPS_BETWEEN_LOOKS
        self._timeout = timeout_s
        self._deadline = None if steps else time.monotonic() + timeout_s
        self.length = length
        self._left = 4 * length

    def more(self) -> None:
        """Called when `steps` is negative. Raises `LongRendering` or `TemplateLimitError`."""
        if self._deadline is None:
            raise LongRendering
        if time.monotonic() > self._deadline:
            raise TemplateLimitError(f"it takes longer than {self._timeout:g} s (limits.render_timeout)")
        self.steps = STEPS_BETWEEN_LOOKS

    def step(self, count: int = 1) -> bool:
        """Count steps; true, so that it can stand in a condition."""
        self.steps -= count
        if self.steps < 0:
            self.more()
        return True

    def made(self, value: Any) -> Any:
        """`value`, which is new, counted. Raises `TemplateLimitError`."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, (list, tuple)):
            self.spend(_size(value))
        return value

    def concat(self, pieces: list[str]) -> str:
        """The joined output of a macro or a block, counted."""
        self.spend(sum(map(len, pieces)))
        return "".join(pieces)

    def spend(self, size: int) -> None:
        """Count `size` characters that are made or about to be."""
        self._left -= size
        if size > self.length or self._left < 0:
            raise TemplateLimitError(
                f"it makes more than {self.length} characters (limits.max_prompt_length)"
            )


class _Context(Context):
    work: Work

    def derived(self, locals: dict[str, Any] | None = None) -> Context:
        context = super().derived(locals)
        assert isinstance(context, _Context)
        context.work = self.work
        return context


class _CodeGenerator(CodeGenerator):
    """Writes the counting into the template's code."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counted: list[list[nodes.Node]] = []
        self._tests: list[nodes.Node] = []
        self._sums: set[int] = set()  # ids of sums inside of sums

    def write_commons(self) -> None:
        super().write_commons()
        self.writeline("work = context.work")
        self.writeline("concat = work.concat")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802, jinja2's name
        self._counted.append(node.body)
        if node.test is not None:
            self._tests.append(node.test)
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> Any:
        self._counted.append(node.body)
        return super().macro_body(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        if any(nodes is body for body in self._counted):
            self.writeline("work.steps -= 1")
            self.writeline("if work.steps < 0: work.more()")
        super().blockvisit(nodes, frame)

    def visit(self, node: nodes.Node, *arguments: Any, **named: Any) -> Any:
        if any(node is test for test in self._tests):
            self.write("work.step() and ")
        return super().visit(node, *arguments, **named)

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:  # noqa: N802
        self._sums.add(id(node.left))  # a + b + c is counted once
        self._counted_value(node, super().visit_Add, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self._counted_value(node, super().visit_Concat, frame)

    def _counted_value(self, node: nodes.Node, visit: Callable[[Any, Frame], None], frame: Frame) -> None:
        if id(node) in self._sums:
            visit(node, frame)
            return
        self.write("work.made(")
        visit(node, frame)
        self.write(")")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. A context that it makes needs a `Work` before it is rendered: see `render`."""

    code_generator_class = _CodeGenerator
    context_class = _Context
    # Intercepted operators are not computed while the template is compiled, either.
    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals.pop("lipsum", None)
        for name in ("batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap"):
            self.bound_filter(name)
        self.filters["format"] = _checked(self.filters["format"], _check_format)
        self.filters["replace"] = _checked(self.filters["replace"], _check_replace)
        self.filters["join"] = _joined

    def bound_filter(self, name: str) -> None:
        """Refuse large numbers as arguments of a filter."""
        self.filters[name] = _checked(self.filters[name], lambda _, *rest: _check_numbers(rest))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        assert isinstance(context, _Context)
        if operator == "%" and isinstance(left, str):
            _check_format(left, right)
        elif operator == "*":
            _check_product(context.work, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_integer(left.bit_length() * abs(right))
        return context.work.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` that checks first; jinja2 wraps it where it is looked up, before `call` sees it."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*arguments: Any, **named: Any) -> str:
            _check_format(value.__self__, arguments, named)
            return wrapped(*arguments, **named)

        return bounded

    def call(self, context: Context, called: Any, /, *arguments: Any, **named: Any) -> Any:
        assert isinstance(context, _Context)
        if type(called) is BuiltinMethodType and isinstance(called.__self__, str):
            if called.__name__ == "join" and arguments:
                arguments = (list(arguments[0]), *arguments[1:])
            _check_method(called.__self__, called.__name__, arguments)
        value = super().call(context, called, *arguments, **named)
        if type(value) is range:
            context.work.step(len(value) // 8)
        return context.work.made(value)

    def render(self, template: jinja2.Template, variables: dict[str, Any], work: Work) -> str:
        """Render a template of this environment. Its own exceptions pass through."""
        context = template.new_context(variables)
        assert isinstance(context, _Context)
        context.work = work
        pieces: list[str] = []
        length = 0
        for piece in template.root_render_func(context):
            pieces.append(piece)
            length += len(piece)
            if length > work.length:
                work.spend(length)
        return "".join(pieces)


def _size(values: Iterable[Any]) -> int:
    return sum(len(value) if isinstance(value, str) else 16 for value in values)


def _check_numbers(arguments: Iterable[Any]) -> None:
    if any(isinstance(number, int) and abs(number) > MAX_NUMBER for number in arguments):
        raise TemplateLimitError(f"a number is larger than {MAX_NUMBER}")


def _check_integer(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateLimitError("a number is too large")


def _check_product(work: Work, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_integer(left.bit_length() + right.bit_length())
        return
    sequence, times = (right, left) if isinstance(left, int) else (left, right)
    if isinstance(times, int) and times > 0 and isinstance(sequence, (str, bytes, list, tuple)):
        size = len(sequence) if isinstance(sequence, (str, bytes)) else _size(sequence)
        if times * size > work.length:
            work.spend(times * size)


_WIDE = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(\d{6}|\*)|\{[^{}]*[:!][^{}]*(\d{6}|\{)")
"""A width of six digits, or one that is an argument."""
_WIDTH = re.compile(r"(?:%(?:\([^)]*\))?[^a-zA-Z%\d]*|\{[^{}]*?[:!][^{}\d]*)(\d+)")


def _check_format(text: Any, *values: Any) -> None:
    """Refuse what widths, or values that are repeated, make long. `values`: what is formatted."""
    if not isinstance(text, str):
        return
    if _WIDE.search(text):
        raise TemplateLimitError("a format has a width that is too large or not a number")
    size = sum(map(int, _WIDTH.findall(text))) + (text.count("%") + text.count("{")) * _longest(values)
    if size > MAX_REPLACED:
        raise TemplateLimitError(f"a format may make more than {MAX_REPLACED} characters")


def _longest(value: Any) -> int:
    """The characters of the longest text in nested values."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return 0
    return max(map(_longest, value), default=0)


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    if len(new) > len(old) and text.count(old) * (len(new) - len(old)) > MAX_REPLACED:
        raise TemplateLimitError(f"a replacement adds more than {MAX_REPLACED} characters")


def _check_method(text: str, name: str, arguments: tuple[Any, ...]) -> None:
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        _check_numbers(arguments)
    elif name == "replace":
        _check_replace(text, *arguments)
    elif name == "join" and arguments:
        _check_joined(text, arguments[0])
    elif name == "translate":
        raise TemplateLimitError("translate is not supported")


def _check_joined(separator: str, values: list[Any]) -> None:
    if _size(values) + len(separator) * len(values) > MAX_REPLACED:
        raise TemplateLimitError(f"a join makes more than {MAX_REPLACED} characters")


def _checked(function: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """A filter that is called only if `check` accepts its arguments, of which the first is the value."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or environment comes first

    @functools.wraps(function)
    def bounded(*arguments: Any, **named: Any) -> Any:
        check(*arguments[skipped:], *named.values())
        return function(*arguments, **named)

    return bounded


@jinja2.pass_eval_context
def _joined(context: nodes.EvalContext, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    values = list(value)
    _check_joined(d, values)
    joined: str = jinja2.filters.do_join(context, values, d, attribute)
    return joined
