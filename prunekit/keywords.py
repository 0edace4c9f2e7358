"""with_keywords: show all keywords of a function that collects them in a checked value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def with_keywords(options: type, value: type) -> Callable[[F], F]:
    """Return a decorator that spells out `**options` in a function's signature.

    Type checkers read the keywords off the TypedDict; `help`, editors and `inspect.signature` do
    not, and see no defaults.

    Args:
        options: The TypedDict that `**options` unpacks.
        value: The dataclass that is made of them, whose defaults count.
    """

    def decorate(function: F) -> F:
        own = list(inspect.signature(function).parameters.values())
        keyword, rest = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
        more = [
            inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type)
            for f in fields(value)
            if f.name in options.__annotations__
        ]
        shown = [*(p for p in own if p.kind is not rest), *more]
        signature = inspect.signature(function).replace(parameters=shown)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate
