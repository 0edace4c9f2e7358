"""Luggage: what a worker needs before it can do the work of a launch."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any
from uuid import uuid4

import torch

from ...adapters import ADAPTERS
from ...criteria import CRITERIA
from ...errors import GridError
from ...registry import Registry
from ...repairs import REPAIRS
from .connect import named
from .share import Share

DOORS: tuple[tuple[str, Registry[Any]], ...] = (
    ("prunekit.criteria", CRITERIA),
    ("prunekit.repairs", REPAIRS),
    ("prunekit.adapters", ADAPTERS),
)


@dataclass(frozen=True)
class Luggage:
    """What all tasks of a launch need.

    Attributes:
        name: Tells it from those of other launches.
        plugins: What is known to the sender only, pickled, by entry-point group and name.
        home: The sender's working directory.
        threads: How many to compute on.
        gpus: Whether there are any.
    """

    name: str
    plugins: Mapping[tuple[str, str], bytes]
    home: str
    threads: int
    gpus: bool

    @classmethod
    def packed(cls, share: Share, criteria: Iterable[str], repairs: Iterable[str]) -> Luggage:
        """Pack what workers may not have, and all adapters.

        Args:
            share: What each task is given.
            criteria: Those that are used, with options or without.
            repairs: Likewise.

        Raises:
            GridError: One holds on to something that cannot be sent.
        """
        wanted = {
            "prunekit.criteria": criteria,
            "prunekit.repairs": repairs,
            "prunekit.adapters": tuple(ADAPTERS.names()),
        }
        threads, gpus = max(1, int(share.cpus)), share.gpus > 0
        return cls(uuid4().hex, _plugins(wanted), os.getcwd(), threads, gpus)

    def unpack(self) -> None:
        """Let this process be like the sender's."""
        if not self.gpus:  # Ray does not hide those that were not asked for
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(self.threads)
        if os.path.isdir(self.home):
            os.chdir(self.home)
        for group, registry in DOORS:
            for (its_group, name), packed in self.plugins.items():
                if its_group == group:
                    registry.add(name, pickle.loads(packed))


def _plugins(wanted: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], bytes]:
    """Pickle those of some plug-ins that are neither built in nor installed."""
    packed = {}
    for group, registry in DOORS:
        findable = {entry.name for entry in entry_points(group=group)} | {*registry.builtin_names()}
        for name in sorted({spec.partition(":")[0] for spec in wanted[group]} - findable):
            packed[group, name] = _packed(registry, name)
    return packed


def _packed(registry: Registry[Any], name: str) -> bytes:
    """Pickle a plug-in with its code, since a worker may not find the file it is from.

    Raises:
        GridError: It holds on to something that cannot be sent.
    """
    from ray import cloudpickle

    plugin = registry.get(name)
    home = sys.modules[plugin.origin.partition(":")[0]]
    with ExitStack() as stack:
        if home.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(home)
            stack.callback(cloudpickle.unregister_pickle_by_value, home)
        try:
            return bytes(cloudpickle.dumps(plugin))
        except Exception as error:
            raise GridError(
                f"The {registry.noun} {name!r} cannot be sent to Ray's workers "
                f"({named(error)}); let a package declare it as an entry point, and install that "
                "on all machines."
            ) from error
