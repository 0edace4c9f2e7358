"""Figures 5 and 6: what is kept of every layer, and the masks of one block; both also measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prunekit import Result
from prunekit.adapters.finding import adapter_for
from prunekit.criteria import CRITERIA
from prunekit.inputs.architectures import build
from prunekit.weights.matrices import weight_axes

from .drawing import draw_kept, draw_masks
from .masked import Choice, mask
from .parts import Part, Plain, Settings, is_swin, table
from .published import FRACTIONS

FRACTION = FRACTIONS["DIMAP3"]
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # of a block
MODULES = {"qkv": "QKV-M", "proj": "PRJ-M", "mlp": "MLP-M"}  # by prunekit's roles

Mask = NDArray[np.bool_]


def run(settings: Settings) -> Plain:
    """Mask every Swin by DIMAP3, draw it, and measure what the paper says of its drawings."""
    swins = filter(is_swin, settings.models)
    return {"models": {model: _pictured(settings, model) for model in swins}}


def _pictured(settings: Settings, model: str) -> Plain:
    result = mask(settings, model, Choice("dimap", "kind", FRACTION, "slices"))
    found, masks = result.sparsity, _by_block(result)
    assert found is not None
    shown = shown_block(list(masks))
    layers = [
        {"name": name, "module": MODULES[one.kind], "kept": one.nonzero / one.weights}
        for name, one in found.layers.items()
    ]
    thresholds = {MODULES[kind]: value for kind, value in found.thresholds.items()}
    figures = {"kept": f"figure_5_{model}.svg", "masks": f"figure_6_{model}.png"}
    settings.out.mkdir(parents=True, exist_ok=True)
    title = f"{model}, DIMAP3: {100 * (1 - FRACTION):.0f} % of each module kept"
    draw_kept(layers, thresholds, 1 - FRACTION, title, settings.out / figures["kept"])
    draw_masks(masks[shown], f"{model}, {shown}", settings.out / figures["masks"])
    return {
        "weights": result.recipe["weights"],
        "layers": layers,
        "thresholds": thresholds,
        "least_of_1_percent": _least_left(settings, model),
        "largest_score": _largest_scores(settings, model),
        "blocks": [{"block": name, **measure(own)} for name, own in masks.items()],
        "shown": shown,
        "figures": figures,
    }


def _least_left(settings: Settings, model: str) -> int:
    """Return how many weights of any layer are left, at least, if 1 % of each module is."""
    found = mask(settings, model, Choice("dimap", "kind", 0.99, "slices")).sparsity
    assert found is not None
    return min(layer.nonzero for layer in found.layers.values())


def _largest_scores(settings: Settings, model: str) -> list[float]:
    """Return the lowest and the highest score that a layer's largest weight has."""
    built = build(model, settings.of(model)["weights"], settings.seed).model
    axes = weight_axes(built, adapter_for(built))
    scores = CRITERIA.get("dimap")(axes)
    largest = [
        float(score[axis.members[0].weight.abs().argmax()])
        for axis, score in zip(axes, scores, strict=True)
    ]
    return [min(largest), max(largest)]


def _by_block(result: Result) -> dict[str, dict[str, Mask]]:
    """Return the masks of every block's four layers."""
    assert result.masks is not None
    kept = {name.removesuffix(".weight"): one.numpy() for name, one in result.masks.kept.items()}
    blocks = dict.fromkeys(name.rpartition(".attn.")[0] for name in kept if ".attn." in name)
    return {block: {one: kept[f"{block}.{one}"] for one in LAYERS} for block in blocks}


def shown_block(blocks: Sequence[str]) -> str:
    """Return the middle block of the longest stage.

    Example:
        >>> shown_block(["layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1"])
        'layers.1.blocks.1'
    """
    stages = [list(own) for _, own in groupby(blocks, key=lambda name: name.split(".")[1])]
    longest = max(stages, key=len)
    return longest[len(longest) // 2]


def measure(masks: Mapping[str, Mask]) -> Plain:
    """Measure what the paper says of its Figure 6.

    Args:
        masks: Of a block's four layers, each (out, in); qkv's rows are q, k and v in turn.

    Returns:
        Fractions: kept of queries and keys, and of values; the rows of fc1 and the columns of fc2
        of which nothing is left, and of fc1 how many would be if its zeros were spread by chance;
        and Spearman's correlation between what is kept of each hidden channel in fc1 and in fc2.
    """
    qkv, fc1, fc2 = masks["attn.qkv"], masks["mlp.fc1"], masks["mlp.fc2"].T
    queries_keys, values = np.split(qkv, [2 * len(qkv) // 3])
    alike = spearmanr(fc1.mean(1), fc2.mean(1))
    return {
        "queries_keys": float(queries_keys.mean()),
        "values": float(values.mean()),
        "gone_in_fc1": float(np.mean(~fc1.any(1))),
        "gone_by_chance": float((1 - fc1.mean()) ** fc1.shape[1]),
        "gone_in_fc2": float(np.mean(~fc2.any(1))),
        "alike": float(alike.statistic),
        "alike_p": float(alike.pvalue),
    }


NOTE = """\
DIMAP3, {weights} weights: {fraction:.0f} % of each module removed. The highest scores that were
removed, which are the modules' thresholds: {thresholds}. The least of a layer that is kept is
{least:.1f} %, of `{least_name}`, the most {most:.1f} %, of `{most_name}`."""
MASKS = """\
The masks of `{shown}`, one dot a weight, kept ones in colour, beside each row's share of kept
weights. fc2 is shown transposed, so that a hidden channel is the same row in fc1 and in fc2."""
MEASURED = """\
What can be seen in such pictures, measured in every block. *Gone* are rows of fc1 and columns of
fc2 of which nothing is kept, in brackets how many of fc1 would be if its zeros were spread by
chance; *alike* is Spearman's correlation, over the hidden channels, between what is kept of them
in fc1 and in fc2."""


def page(data: Plain) -> str:
    """Show both figures of every model, and the measurements."""
    if not data["models"]:
        return "None of the models is a Swin Transformer."
    return "\n\n".join(_model(model, found) for model, found in data["models"].items())


def _model(model: str, found: Plain) -> str:
    ordered = sorted(found["layers"], key=lambda layer: layer["kept"])
    thresholds = ", ".join(f"{name} {value:.3g}" for name, value in found["thresholds"].items())
    note = NOTE.format(
        weights=found["weights"],
        fraction=100 * FRACTION,
        thresholds=thresholds,
        least=100 * ordered[0]["kept"],
        least_name=ordered[0]["name"],
        most=100 * ordered[-1]["kept"],
        most_name=ordered[-1]["name"],
    )
    return "\n\n".join(
        [
            f"### Figure 5: {model}",
            note,
            f"![What is kept of every layer of {model}]({found['figures']['kept']})",
            f"### Figure 6: {model}",
            MASKS.format(shown=found["shown"]),
            f"![The masks of one block of {model}]({found['figures']['masks']})",
            MEASURED,
            _measured(found["blocks"]),
        ]
    )


def _measured(blocks: Sequence[Plain]) -> str:
    headings = ["block", "kept of q, k", "of v", "fc1 gone", "fc2 gone", "alike"]
    rows = [_line(one["block"], one) for one in blocks]
    return table(headings, [*rows, _line("mean", mean(blocks))])


def mean(blocks: Sequence[Plain]) -> dict[str, float]:
    """Return the mean of every measurement over the blocks."""
    return {key: fmean(one[key] for one in blocks) for key in blocks[0] if key != "block"}


def _line(name: str, one: Mapping[str, Any]) -> list[str]:
    return [
        name,
        *(f"{100 * one[key]:.1f} %" for key in ("queries_keys", "values")),
        f"{100 * one['gone_in_fc1']:.1f} % ({100 * one['gone_by_chance']:.1f} %)",
        f"{100 * one['gone_in_fc2']:.1f} %",
        f"{one['alike']:+.2f}",
    ]


PART = Part("pictures", "Figures 5 and 6", run, page)
