"""A jinja2 template from an untrusted model file: sandboxed, with bounded work and output.

Offers what Hugging Face's chat templates use: raise_exception, strftime_now, tojson without HTML
escapes, loop controls and the generation tag. It cannot load other templates or change what it
is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pliant.engine.template_limits import (
    BINARY_OPERATORS,
    check_call,
    check_operator,
    check_size,
    concatenate,
    counting,
    guard_filters,
    measured,
)
from pliant.errors import TemplateError

MAX_SOURCE = 1024 * 1024
MAX_STEPS = 50_000

_LIMITED = "pliant_limited"
_CONCATENATE = "pliant_concatenate"

_steps: ContextVar[int] = ContextVar("steps")


class CompiledTemplate:
    """Compiled once, rendered often, from any thread."""

    def __init__(self, source: str) -> None:
        """Raises TemplateError if `source` is not a template."""
        if len(source) > MAX_SOURCE:
            raise TemplateError(
                f"the chat template has {len(source)} characters, over {MAX_SOURCE}"
            )
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
            finalize=measured,
        )
        environment.filters["tojson"] = _tojson
        environment.filters[_LIMITED] = _limited
        environment.filters[_CONCATENATE] = concatenate
        guard_filters(environment)
        del environment.globals["lipsum"]
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            tree = environment.parse(source)
            code = environment.compile(_Limiter().visit(tree))
            self._template = environment.template_class.from_code(
                environment, code, environment.make_globals(None)
            )
        except (JinjaError, RecursionError, SyntaxError) as error:
            raise TemplateError(f"the chat template does not compile: {error}") from error

    def render(self, **variables: Any) -> str:
        """Raises TemplateError if the template refuses, fails, or does too much."""
        token = _steps.set(0)
        parts: list[str] = []
        length = 0
        try:
            with counting():
                for part in self._template.generate(**variables):
                    parts.append(part)
                    length += len(part)
                    check_size(length)
        except TemplateError:
            raise
        except Exception as error:
            # The template's expressions run arbitrary operations on arbitrary messages.
            raise TemplateError(
                f"the chat template cannot render these messages: {error}"
            ) from error
        finally:
            _steps.reset(token)
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """Counts calls, and checks calls and operators that can make large values."""

    intercepted_binops = BINARY_OPERATORS

    def call(
        __self,
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        _count_step()
        check_call(__obj, (*args, *kwargs.values()))
        return measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return measured(super().call_binop(context, operator, left, right))


class _Limiter(NodeTransformer):
    """Counts the rounds of every loop and checks every concatenation."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _LIMITED, [], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), _CONCATENATE, [], [], None, None)


class _GenerationTag(Extension):
    """{% generation %} ... {% endgeneration %}: marks training targets; here only its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _limited(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _count_step()
        yield value


def _count_step() -> None:
    steps = _steps.get() + 1
    if steps > MAX_STEPS:
        raise TemplateError(f"the chat template takes more than {MAX_STEPS} steps")
    _steps.set(steps)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"the chat template refuses the messages: {message}")


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(format_)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
