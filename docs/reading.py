"""How the reference reads prunekit's source: an extension of Griffe, which does not import it.

`with_keywords` spells out `**options` when prunekit is imported, and this does so in the reference.
Griffe also knows sections called "Examples", where prunekit's docstrings say "Example".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import (
    Alias,
    Extension,
    Function,
    GriffeLoader,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)


class Reading(Extension):
    """Completes signatures and docstrings."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: Any) -> None:
        for found in list(_within(pkg)):
            if found.docstring:
                value = found.docstring.value
                found.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.M)
            if isinstance(found, Function):
                _spell_out(found, loader)


def _within(parent: Object) -> Iterator[Object]:
    for member in parent.members.values():
        if not isinstance(member, Alias):
            yield member
            yield from _within(member)


def _spell_out(function: Function, loader: GriffeLoader) -> None:
    for decorator in function.decorators:
        if not decorator.callable_path.endswith(".with_keywords"):
            continue
        paths = [argument.canonical_path for argument in decorator.value.arguments]
        options, value = (loader.modules_collection[path] for path in paths)
        own = [p for p in function.parameters if p.kind is not ParameterKind.var_keyword]
        more = [
            Parameter(
                name,
                annotation=attribute.annotation,
                kind=ParameterKind.keyword_only,
                default=None if attribute.value is None else str(attribute.value),
            )
            for name, attribute in value.attributes.items()
            if name in options.attributes
        ]
        function.parameters = Parameters(*own, *more)
