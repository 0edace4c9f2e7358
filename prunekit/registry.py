"""A name -> a plug-in: built-in, registered in this process, or found by entry point."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .errors import PluginWarning, PruneError, RegistryError, described

LONGEST = 200  # characters of a name that a message quotes


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

    Attributes:
        noun: What a plug-in is called in messages.
        broken: Why those that `usable` passed over cannot be used, by name.
    """

    def __init__(self, noun: str, group: str, builtin: Mapping[str, str], kind: str | None = None):
        """Describe the registry.

        Args:
            noun: What a plug-in is called in messages, such as "criterion".
            group: The entry-point group that other packages use.
            builtin: Name to "module:attribute" of the plug-ins that come with prunekit.
            kind: "module:class" of what they are instances of; unchecked unless given.
        """
        self.noun, self._group, self._builtin = noun, group, dict(builtin)
        self._kind = kind
        self._loaded: dict[str, P] = {}
        self.broken: dict[str, str] = {}

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
            self._loaded[name] = self._imported(name, target)
        return self._loaded[name]

    def usable(self) -> list[P]:
        """Return every plug-in that can be imported, and pass over the others with a warning."""
        found = []
        for name in self.names():
            if name in self.broken:
                continue
            try:
                found.append(self.get(name))
            except RegistryError as error:
                self.pass_over(name, error)
        return found

    def pass_over(self, name: str, error: PruneError) -> None:
        """Remember that a plug-in cannot be used, and warn of it once."""
        if name not in self.broken:
            self.broken[name] = str(error)
            warnings.warn(f"{error} It is passed over.", PluginWarning, stacklevel=2)

    def summary(self, name: str) -> str:
        """Return the first sentence of the defining module, read without importing it.

        If a package cannot be read, that is what is said.
        """
        try:
            module, _, _ = (self._origin(name) or "").partition(":")
            spec = _spec(module)
            source = Path(spec.origin).read_text("utf-8") if spec.origin else ""
            return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
        except (UnicodeDecodeError, IsADirectoryError):  # it is not written in Python
            return ""
        except (Exception, SystemExit) as error:  # finding a package may run code of its own
            defined_here = name in self._loaded  # in a notebook, there is no file to read
            return "" if defined_here else f"cannot be used: {described(error)}"

    def _imported(self, name: str, target: str) -> P:
        try:
            found = _imported_from(target)
            kind = self._kind and _imported_from(self._kind)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # importing runs code of its own
            raise RegistryError(
                f"The {self.noun} {name!r} is declared as {target}, which cannot be imported "
                f"({described(error)}); reinstall or remove the package that declares it."
            ) from error
        if kind and not isinstance(found, kind):
            raise RegistryError(
                f"The {self.noun} {name!r} is declared as {target}, which is "
                f"{type(found).__name__}; expected {kind.__name__}: correct or remove the package "
                "that declares it."
            )
        plugin: P = found
        return plugin

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


def _spec(module: str) -> ModuleSpec:
    """Find a module's file; unlike importlib's own way, without importing what it is part of."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in below:
        name = f"{name}.{part}"
        spec = spec and PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return spec


def _imported_from(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


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
    called = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return f"No {noun} is called {called!r}. {hint}"
