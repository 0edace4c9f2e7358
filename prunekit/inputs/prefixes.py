"""Names of weights, bared of what wrappers put before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor

from ..errors import WeightsError
from .weights_file import printable

# Of torch.compile, of DataParallel and its like, and of models that hold a timm model; others are
# found by comparing names.
PREFIXES = ("_orig_mod.", "module.", "backbone.", "encoder.", "model.")


def bare(
    tensors: Mapping[str, Tensor], own: Collection[str], source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Strip the prefixes that most names carry, one after the other.

    Names without the prefix belong to other parts of a larger model and are left out. If one of
    them is a name of the model, though, nothing is stripped.

    Args:
        tensors: What lies in a file.
        own: Names of the model's tensors.
        source: What to call the file.

    Returns:
        The tensors under their bare names, and what to tell the user.

    Raises:
        WeightsError: Two names would become the same.
    """
    left, out = dict(tensors), []
    while prefix := _common(left, own, source):
        out += [name for name in left if not name.startswith(prefix)]
        left = {n.removeprefix(prefix): t for n, t in left.items() if n.startswith(prefix)}
    if not out:
        return left, ()
    count = f"{len(out)} tensors" if len(out) > 1 else "a tensor"
    return left, (f"Left out {count} of {source} that the model lacks ({_listed(out)}).",)


def contrast(names: Collection[str], own: Collection[str]) -> str:
    """Say what two sets of names look like, for a sentence."""
    return f"its tensors are called like {_listed(names)}, the model's like {_listed(own)}"


def _common(names: Collection[str], own: Collection[str], source: str) -> str | None:
    """Return a prefix that all names carry, but for a few that are not the model's."""
    for prefix in (*PREFIXES, *_derived(names, own)):
        if any(name.startswith(prefix) for name in own):
            continue
        carried = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        others = {name for name in names if not name.startswith(prefix)}
        twins = sorted(carried & others & set(own))
        if twins:
            raise WeightsError(
                f"{source} holds both {printable(twins[0])!r} and "
                f"{printable(prefix + twins[0])!r}, which name the same weights; save it again "
                "with one of them."
            )
        if len(carried) > len(others) and others.isdisjoint(own):
            return prefix
    return None


def _derived(names: Collection[str], own: Collection[str]) -> list[str]:
    """Return what stands before most of the model's names, whatever that is."""
    known = set(own)
    counts = Counter(
        name[:start]
        for name in names
        for start in (dot + 1 for dot, letter in enumerate(name) if letter == ".")
        if name[start:] in known
    )
    return [prefix for prefix, count in counts.most_common(1) if 2 * count >= len(known)]


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(printable(name) for name in list(names)[:3])
    return f"{shown}, ..." if len(names) > 3 else shown
