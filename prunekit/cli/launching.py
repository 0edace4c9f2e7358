"""What runs the cells: this process, or Ray, as compare and sensitivity are told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import GridError

if TYPE_CHECKING:
    from ..comparison.on_ray import Cluster

LAUNCHERS = ("local", "ray")


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add --launcher, and what Ray is to do."""
    add = parser.add_argument
    add(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="what runs the cells, or the cuts (local)",
    )
    add("--address", help="of a Ray cluster; one is started here unless given")
    add("--cpus", type=float, help="that Ray sets apart for each (1)")
    add("--gpus", type=float, help="that Ray sets apart for each (0)")


def cluster_of(options: argparse.Namespace) -> Cluster | None:
    """Return where Ray runs the cells; None if they are run here.

    Raises:
        GridError: Something is said of Ray, which nobody asked for.
    """
    names = ("address", "cpus", "gpus")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.launcher == "local":
        if asked:
            raise GridError(
                f"--{next(iter(asked))} says what Ray is to do, but all is run here; add "
                "--launcher ray, or leave it out."
            )
        return None
    from ..comparison.on_ray import Cluster

    return Cluster(**asked)
