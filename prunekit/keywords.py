"""with_keywords: show all keywords of a function that collects them in a checked value."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def with_keywords(options: type, value: type) -> Callable[[F], F]:
    """Return a decorator that spells out `**options` in a function's signature, and checks it.

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
        known = [parameter.name for parameter in shown]

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                if name not in known:
                    raise TypeError(_unexpected(function, name, known))
            return function(*args, **kwargs)

        signature = inspect.signature(function).replace(parameters=shown)
        checked.__signature__ = signature  # type: ignore[attr-defined]
        return cast(F, checked)

    return decorate


def _unexpected(function: Callable[..., Any], name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{function.__name__}() got an unexpected keyword argument {name!r}{meant}"
