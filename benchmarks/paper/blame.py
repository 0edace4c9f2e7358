"""Why one score of slices costs more than another: what each axis' share of the cut does alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from prunekit import prune
from prunekit.axis import Axis, Member
from prunekit.cutting.silence import masked
from prunekit.inputs import zoo
from prunekit.inputs.data import Images, batches
from prunekit.inputs.subject import Source, find_subject
from prunekit.measuring.accuracy import EVAL_BATCH, hits
from prunekit.planning.plan import Plan
from prunekit.pruning.slices import traced
from prunekit.shared import Shared

from .parts import Plain, table
from .slice_cells import Entry, criterion, opened
from .variants import of_readers

RATIO = 0.5  # of all parameters


def blame(model: Plain, entries: Sequence[Entry]) -> Plain:
    """Cut each axis alone, as far as each entry's plan does, and see what that costs.

    Args:
        model: What `prune` has to know of it.
        entries: Scores with their scopes.

    Returns:
        Axis by axis: its kind and size; how much its slices vary in energy, and its single weights
        (standard deviation over mean of what reads them); and for each entry the fraction of
        slices that stay, and the points of top-1 on training images that this costs by itself.
    """
    names = ("model", "weights", "device", "seed")
    subject = find_subject(Source(**{name: model[name] for name in names}), Shared())
    axes = traced(subject, tuple(subject.adapter.default_kinds), (), (), Shared())
    images = opened(model["model"], model["data"] or zoo.DATA).calibration
    assert images is not None, "blame is put on training images"

    dense = _top1(subject.model, images)
    plans = [
        prune(**model, criterion=criterion(name), ratio=RATIO, scope=scope).plan
        for name, scope in entries
    ]

    def alone(axis: Axis, plan: Plan) -> Plain:
        kept = plan.kept[axis.name]
        if len(kept) == axis.size:
            return {"kept": 1.0, "lost": 0.0}
        own = replace(plan, kept={axis.name: kept}, sizes={axis.name: axis.size})
        lost = dense - _top1(masked(subject.model, [axis], own), images)
        return {"kept": len(kept) / axis.size, "lost": lost}

    rows = [{**_known(axis), "alone": [alone(axis, plan) for plan in plans]} for axis in axes]
    return {"entries": list(entries), "axes": rows}


def _top1(net: nn.Module, images: Images) -> float:
    return float(100 * hits(net, batches(images, EVAL_BATCH))[:, 0].float().mean())


def _known(axis: Axis) -> Plain:
    """Return what is known of an axis before anything is cut."""
    return {
        "name": axis.name,
        "kind": axis.kind,
        "size": axis.size,
        "weights": axis.size * axis.weights_per_slice,
        "variation": {
            "slices": _variation(distortable(axis)),
            "weights": _variation(torch.cat([_squares(m) for m in axis.readers])),
        },
    }


def distortable(axis: Axis) -> Tensor:
    """Energies of the slices in the layer that reads them; of the first if several do."""
    return of_readers(axis)[0]


def _squares(member: Member) -> Tensor:
    return member.weight.float().square().flatten()


def _variation(values: Tensor) -> float:
    return float(values.std() / values.mean())


# --- the page --------------------------------------------------------------------------


def blame_page(found: Mapping[str, Plain]) -> str:
    """Turn the figures of all models into Markdown."""
    (first, second) = (tuple(entry) for entry in next(iter(found.values()))["entries"])
    rows = [row for model, data in found.items() for row in _kind_rows(model, data)]
    return "\n\n".join(
        (
            f"At {RATIO:.0%} of all parameters, on training images. *Alone*: points lost if only "
            "the axes of this kind were cut, each by itself, as the plan says, added up.",
            table(
                (
                    "model",
                    "axes",
                    "slices",
                    "variation, slices",
                    "variation, weights",
                    f"kept, {_named(first)}",
                    "alone",
                    f"kept, {_named(second)}",
                    "alone",
                ),
                rows,
            ),
            "*Variation* is the standard deviation of energies (squared norms) over their mean, "
            "median over axes. Single weights differ widely, so Eq. 10 mostly goes by a weight's "
            "own size. Where slices differ little, as heads do, the k-th best of an axis scores "
            "about 1/k whatever it does, so that one threshold leaves every axis the same *number* "
            "of slices:",
            "\n".join(_said(model, data) for model, data in found.items()),
        )
    )


def _kind_rows(model: str, data: Plain) -> list[tuple[object, ...]]:
    rows = []
    for kind in dict.fromkeys(axis["kind"] for axis in data["axes"]):
        axes = [axis for axis in data["axes"] if axis["kind"] == kind]
        sizes = sorted({axis["size"] for axis in axes})
        rows.append(
            (
                model,
                f"{len(axes)} {kind}",
                " / ".join(map(str, sizes)),
                *(f"{_median(axes, what):.2f}" for what in ("slices", "weights")),
                *(cell for n in (0, 1) for cell in _entry_cells(axes, n)),
            )
        )
    return rows


def _entry_cells(axes: Sequence[Plain], number: int) -> tuple[str, str]:
    stay = sum(axis["alone"][number]["kept"] * axis["size"] for axis in axes)
    lost = sum(axis["alone"][number]["lost"] for axis in axes)
    return f"{stay / sum(axis['size'] for axis in axes):.0%}", f"{lost:.2f}"


def _median(axes: Sequence[Plain], what: str) -> float:
    return float(np.median([axis["variation"][what] for axis in axes]))


def _said(model: str, data: Plain) -> str:
    """Say how what stays goes with how many there were, for the kinds whose axes differ in size."""
    parts = []
    for kind in dict.fromkeys(axis["kind"] for axis in data["axes"]):
        axes = [axis for axis in data["axes"] if axis["kind"] == kind]
        sizes = sorted({axis["size"] for axis in axes})
        if len(sizes) == 1:
            continue
        for number, entry in enumerate(data["entries"]):
            kept = [np.mean(_kept(axes, size, number)) for size in sizes]
            said = ", ".join(f"{k:.0%} of {s}" for k, s in zip(kept, sizes, strict=True))
            parts.append(f"`{kind}` by {_named(tuple(entry))}: {said}")
    same = "all axes of a kind have equally many slices"
    return f"- {model}: {'; '.join(parts) or same}"


def _kept(axes: Sequence[Plain], size: int, number: int) -> list[float]:
    return [axis["alone"][number]["kept"] for axis in axes if axis["size"] == size]


def _named(entry: Entry) -> str:
    return f"`{entry[0]}`, {entry[1]}"
