"""sensed: the sensitivities that lie beside a comparison."""

from __future__ import annotations

from pathlib import Path

from ..files.sensitivity import NAME, read_sensitivity
from .findings import Cut, Sensed

FOLDER = "sensitivity"  # in a comparison's directory; each in a folder of its own


def sensed(comparison: Path) -> tuple[Sensed, ...]:
    """Return what `prunekit sensitivity --out COMPARISON/sensitivity/ANY` measured, if anything.

    What was cut off is left out until it is finished.

    Raises:
        ArtifactError: A file is damaged.
    """
    found = []
    for place in sorted((comparison / FOLDER).glob(f"*/{NAME}")):
        file = read_sensitivity(place, "remove it, or measure again")
        recipe = file["recipe"]
        if recipe is None:
            continue
        cuts = tuple(
            Cut(
                axis=effect["axis"],
                gone=1 - effect["kept"] / effect["size"],
                divergence=effect["divergence"],
                agreement=effect["agreement"],
                params=effect["params"],
            )
            for effect in file["effects"]
        )
        found.append(
            Sensed(
                arch=str(recipe["arch"]),
                criterion=str(recipe["criterion"]),
                repair=str(recipe["repair"]),
                data=str(recipe["data"]),
                images=file["images"] or 0,
                cuts=cuts,
            )
        )
    return tuple(found)
