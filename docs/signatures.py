"""Show the keywords of prunekit's functions in the reference, as `inspect.signature` does.

`with_keywords` spells out `**options` when prunekit is imported. The reference reads the source
without importing it, so this extension of Griffe does the same there.
"""

from __future__ import annotations

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


class Keywords(Extension):
    """Replaces `**options` of what `with_keywords` decorates."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: Any) -> None:
        for function in _functions(pkg):
            for decorator in function.decorators:
                if decorator.callable_path.endswith(".with_keywords"):
                    options, value = (
                        loader.modules_collection[argument.canonical_path]
                        for argument in decorator.value.arguments
                    )
                    _spell_out(function, options, value)


def _functions(module: Object) -> list[Function]:
    found = []
    for member in module.members.values():
        if isinstance(member, Alias):
            continue
        if isinstance(member, Function):
            found.append(member)
        elif member.is_module:
            found += _functions(member)
    return found


def _spell_out(function: Function, options: Object, value: Object) -> None:
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
