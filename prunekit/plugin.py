"""What criteria and repairs have in common: a named function with options."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

from .errors import PruneError, RegistryError, described
from .registry import Registry, unknown

LONGEST = 40  # characters of a value that a message repeats


@contextmanager
def calling(plugin: str, name: str, error: type[PruneError]) -> Iterator[None]:
    """Run a plug-in's own code, and name the plug-in in whatever goes wrong there.

    Args:
        plugin: Which, and what it is asked for, as the subject of a sentence.
        name: What it is registered under.
        error: What to raise.

    Raises:
        PruneError: The plug-in raised something, or called `sys.exit`. Its own PruneErrors
            pass, under its name. Ctrl-C passes as it is.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except PruneError as refusal:
        if repr(name) in str(refusal):
            raise
        raise error(f"{plugin} refuses: {refusal}") from refusal
    except BaseException as failure:
        raise error(
            f"{plugin} failed with {described(failure)}; correct it, or choose another."
        ) from failure


def titled(noun: str, name: str, origin: str) -> str:
    """Name a plug-in at the start of a sentence, and where it is from unless it is ours.

    Example:
        >>> titled("criterion", "l1", "my_package:l1")
        "Criterion 'l1' (my_package:l1)"
    """
    ours = origin.startswith("prunekit.")
    return f"{noun.capitalize()} {name!r}" if ours else f"{noun.capitalize()} {name!r} ({origin})"


@dataclass(frozen=True)
class Allowed:
    """Which values an option may have.

    Attributes:
        said: In words, such as "0 or more".
        holds: Whether a value, of the default's type, is one of them.
    """

    said: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class FunctionPlugin:
    """A function under a name; its keyword-only parameters are the options.

    Attributes:
        name: What it is registered under.
        function: What does the work.
        options: Values for the function's keyword-only parameters, over its defaults.
        allowed: Which values an option may have, for those that may not have all.
    """

    noun: ClassVar[str]
    error: ClassVar[type[PruneError]]

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    allowed: Mapping[str, Allowed] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what could never be called, while its author is looking."""
        if not isinstance(self.name, str) or not self.name or set(self.name) & set(":,+= "):
            raise self.error(
                f"A {self.noun} got the name {shown(self.name)}; expected a word without spaces, "
                f'colons, commas, plus and equals signs: @{self.noun}("mine").'
            )
        if not callable(self.function):
            raise self.error(f"{self.title} is {shown(self.function)}; expected a function.")
        try:
            inspect.signature(self.function).bind(None)
        except TypeError as error:
            raise self.error(
                f"{self.title} cannot be called with one argument ({described(error)}); expected a "
                "function of one argument, with options after a * that have defaults."
            ) from error
        except ValueError:  # it is written in C, and does not say
            pass
        for option in self.allowed:
            if option not in self.defaults:
                raise self.error(self._no_option(option))

    @property
    def origin(self) -> str:
        """Where the function was defined, as "module:name"."""
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{named.__module__}:{named.__qualname__}"

    @property
    def title(self) -> str:
        """What it is called at the start of a sentence."""
        return titled(self.noun, self.name, self.origin)

    @property
    def defaults(self) -> dict[str, Any]:
        """The options it knows, with their default values."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # it is written in C, and does not say
            return {}
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def configure(self, **options: Any) -> Self:
        """Return it with other options.

        Raises:
            PruneError: It has no such option, or the value is of another type than the
                default, not finite, or not allowed; of the sub-class that belongs to the
                plug-in.
        """
        for option, value in options.items():
            if option not in self.defaults:
                raise self.error(self._no_option(option))
            if type(value) is not type(self.defaults[option]):
                raise self._misread(option, value)
            if isinstance(value, float) and not math.isfinite(value):
                raise self._misread(option, value, "a finite number")
            if option in self.allowed and not self.allowed[option].holds(value):
                raise self._misread(option, value, self.allowed[option].said)
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

    def _no_option(self, option: str) -> str:
        known = list(self.defaults)
        if not known:
            return f"{self.noun.capitalize()} {self.name!r} has no options."
        return unknown(f"option of {self.noun} {self.name!r}", option, known)

    def _misread(self, option: str, value: Any, expected: str | None = None) -> PruneError:
        default = self.defaults[option]
        expected = expected or f"{type(default).__name__}, such as {default!r}"
        return self.error(
            f"Option {option!r} of {self.noun} {self.name!r} got {shown(value)}; expected "
            f"{expected}."
        )


def shown(value: object) -> str:
    """Return a value as it is written in Python, in one line, cut short.

    Example:
        >>> shown("a" * 100)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ..."
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # such as that of an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


F = TypeVar("F", bound=FunctionPlugin)


def configured(registry: Registry[F], spec: str | F) -> F:
    """Find a plug-in and give it its options.

    Args:
        registry: Where to look.
        spec: The plug-in itself, or its name with options: "magnitude", "magnitude:p=1".

    Raises:
        RegistryError: Nothing has that name, or `spec` is something else.
        PruneError: It has no such option, or the value is not understood.
    """
    if not isinstance(spec, str):
        if getattr(spec, "noun", None) != registry.noun:
            raise RegistryError(
                f"Expected a {registry.noun} or its name, got {shown(spec)}; a function of your "
                f'own becomes one by @{registry.noun}("mine").'
            )
        return spec
    name, _, text = spec.partition(":")
    found = registry.get(name)
    given = [part.partition("=") for part in text.split(",") if part]
    return found.configure(**{key: found.parse(key, value) for key, _, value in given})
