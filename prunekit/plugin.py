"""What criteria and repairs have in common: a named function with options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

from .errors import PruneError
from .registry import Registry, unknown


@dataclass(frozen=True)
class FunctionPlugin:
    """A function under a name; its keyword-only parameters are the options.

    Attributes:
        name: What it is registered under.
        function: What does the work.
        options: Values for the function's keyword-only parameters, over its defaults.
    """

    noun: ClassVar[str]
    error: ClassVar[type[PruneError]]

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def origin(self) -> str:
        """Where the function was defined, as "module:name"."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def defaults(self) -> dict[str, Any]:
        """The options it knows, with their default values."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def configure(self, **options: Any) -> Self:
        """Return it with other options.

        Raises:
            PruneError: It has no such option, or the value is of another type than the
                default; of the sub-class that belongs to the plug-in.
        """
        for option, value in options.items():
            if option not in self.defaults:
                known = list(self.defaults)
                said = unknown(f"option of {self.noun} {self.name!r}", option, known)
                raise self.error(
                    said if known else f"{self.noun.capitalize()} {self.name!r} has no options."
                )
            if type(value) is not type(self.defaults[option]):
                raise self._misread(option, value)
        return replace(self, options={**self.options, **options})

    def parse(self, option: str, text: str) -> Any:
        """Turn an option's text, as written on a command line, into its default's type.

        Raises:
            PruneError: The text cannot be read so.
        """
        default = self.defaults.get(option)
        value: Any
        if isinstance(default, bool):
            value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
        elif isinstance(default, int | float):
            try:
                value = type(default)(text)
            except ValueError:
                value = None
        else:
            return text
        if value is None:
            raise self._misread(option, text)
        return value

    def _misread(self, option: str, value: Any) -> PruneError:
        default = self.defaults[option]
        return self.error(
            f"Option {option!r} of {self.noun} {self.name!r} got {value!r}; expected "
            f"{type(default).__name__}, such as {default!r}."
        )


F = TypeVar("F", bound=FunctionPlugin)


def configured(registry: Registry[F], spec: str | F) -> F:
    """Find a plug-in and give it its options.

    Args:
        registry: Where to look.
        spec: The plug-in itself, or its name with options: "magnitude", "magnitude:p=1".

    Raises:
        RegistryError: Nothing has that name.
        PruneError: It has no such option, or the value is not understood.
    """
    if not isinstance(spec, str):
        return spec
    name, _, text = spec.partition(":")
    found = registry.get(name)
    given = [part.partition("=") for part in text.split(",") if part]
    return found.configure(**{key: found.parse(key, value) for key, _, value in given})
