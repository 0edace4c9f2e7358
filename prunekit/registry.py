"""A name -> a plug-in: built-in, registered in this process, or found by entry point."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from .errors import RegistryError


class Plugin(Protocol):
    """What a registry can hold: anything that knows where it was defined."""

    @property
    def origin(self) -> str:
        """Where it was defined, as "module:name"."""


P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """The plug-ins of one sort, imported only when asked for.

    A name is looked up in memory, then among the built-in ones, then among the entry
    points of installed packages. Nothing is imported to list names.
    """

    def __init__(self, noun: str, group: str, builtin: Mapping[str, str]):
        """Describe the registry.

        Args:
            noun: What a plug-in is called in messages, such as "criterion".
            group: The entry-point group that other packages use.
            builtin: Name to "module:attribute" of the plug-ins that come with prunekit.
        """
        self.noun, self._group, self._builtin = noun, group, dict(builtin)
        self._loaded: dict[str, P] = {}

    def names(self) -> list[str]:
        """Return all known names, built-in ones first, without importing any plug-in."""
        return list({**self._builtin, **self._loaded, **self._entry_points()})

    def builtin_names(self) -> list[str]:
        """Return the names that come with prunekit."""
        return list(self._builtin)

    def add(self, name: str, plugin: P) -> P:
        """Register a plug-in for this process.

        Raises:
            RegistryError: The name belongs to another plug-in. Defining the same function
                again, as a notebook does, replaces it.
        """
        taken = self._origin(name)
        # A plug-in that is declared elsewhere registers itself when its module is imported.
        declared = name not in self._loaded and _module(taken) == _module(plugin.origin)
        if taken is not None and taken != plugin.origin and not declared:
            raise RegistryError(
                f"The {self.noun} name {name!r} is taken by {taken}; choose another name "
                f"for {plugin.origin}."
            )
        self._loaded[name] = plugin
        return plugin

    def get(self, name: str) -> P:
        """Return the plug-in called `name`, importing it if need be.

        Raises:
            RegistryError: Nothing, or more than one thing, has that name.
        """
        if name not in self._loaded:
            target = self._origin(name)
            if target is None:
                raise RegistryError(self._unknown(name))
            module, _, attribute = target.partition(":")
            try:
                self._loaded[name] = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise RegistryError(
                    f"The {self.noun} {name!r} is declared as {target}, which cannot be imported "
                    f"({error}); reinstall or remove the package that declares it."
                ) from error
        return self._loaded[name]

    def summary(self, name: str) -> str:
        """Return the first sentence of the defining module, read without importing it."""
        module, _, _ = (self._origin(name) or "").partition(":")
        try:
            spec = importlib.util.find_spec(module)
            source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        except (ImportError, ValueError, OSError):
            return ""
        return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]

    def _origin(self, name: str) -> str | None:
        """Return "module:attribute" of whatever has this name, or None."""
        if name in self._loaded:
            return self._loaded[name].origin
        found = [self._builtin[name]] if name in self._builtin else []
        found += self._entry_points().get(name, [])
        if len(found) > 1:
            raise RegistryError(
                f"The {self.noun} name {name!r} is claimed by {' and '.join(found)}; "
                "uninstall all but one of them."
            )
        return found[0] if found else None

    def _entry_points(self) -> dict[str, list[str]]:
        """Return the declared targets by name; one distribution listed twice counts once."""
        found: dict[str, list[str]] = {}
        for entry in importlib.metadata.entry_points(group=self._group):
            targets = found.setdefault(entry.name, [])
            if entry.value not in targets:
                targets.append(entry.value)
        return found

    def _unknown(self, name: str) -> str:
        return unknown(self.noun, name, self.names())


def _module(origin: str | None) -> str:
    return (origin or "").partition(":")[0]


def unknown(noun: str, name: str, known: Sequence[str], otherwise: str | None = None) -> str:
    """Say that nothing is called `name`, and suggest what may have been meant.

    Args:
        noun: What `name` should have been, such as "criterion".
        name: What came.
        known: What would have been understood.
        otherwise: What to say when nothing is near; all known names unless given.
    """
    near = difflib.get_close_matches(name, known, n=1)
    listing = otherwise or f"Known: {', '.join(sorted(known))}."
    hint = f"Did you mean {near[0]!r}?" if near else listing
    return f"No {noun} is called {name!r}. {hint}"
