"""Damaged comparisons and training runs."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .damage import PICKLES, Damage, Edit, Plant, accidents, edits
from .hostile import mix


@dataclass(frozen=True)
class Store:
    """A comparison that something happened to.

    Attributes:
        damage: What.
        again: Whether the whole command is run again; otherwise only the report is written anew.
    """

    damage: Damage
    again: bool


@dataclass(frozen=True)
class Training:
    """A training run that was stopped, and that something happened to before it is resumed."""

    damage: Damage


def stores() -> st.SearchStrategy[Store]:
    """Return damaged comparisons."""
    named = st.sampled_from(
        [
            Edit("grid.json", ("arch",), ["vit_mikro"]),
            Edit("grid.json", ("ratio",), ["\x1b[2J"]),
            Edit("grid.json", ("seeds",), [10**30]),
            Edit("grid.json", ("criterion",), []),
            Edit("grid.json", ("floor",), 2.0),
            Edit("timing.json", ("shapes",), []),
            Edit("timing.json", ("where",), 3),
        ]
    )
    anywhere = edits("grid.json", "timing.json", "cell.json", "cell.json")
    damage = mix((2, accidents()), (1, named), (1, anywhere))
    return st.builds(Store, damage, st.booleans())


def trainings() -> st.SearchStrategy[Training]:
    """Return damaged training runs; some bring code along."""
    named = st.sampled_from(
        [
            Edit("settings.json", ("epochs",), "2"),
            Edit("settings.json", ("finished",), True),
            Edit("settings.json", ("seed",), None),
            Edit("settings.json", ("weights_sha256",), "x", "drop"),
        ]
    )
    planted = st.builds(Plant, st.sampled_from(PICKLES))
    damage = mix((4, accidents()), (2, planted), (1, named), (1, edits("settings.json")))
    return st.builds(Training, damage)
