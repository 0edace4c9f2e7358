"""Table 1's sizes: non-zero parameters and implied MACs of Swin-T, S and B."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prunekit import Result, prune
from prunekit.weights.zeros import Sparsity

from .parts import Part, Plain, Settings, table
from .published import FRACTIONS, TABLE_1

PARAMS_WITHIN, MACS_WITHIN = 0.1, 0.2  # millions, billions


def run(settings: Settings) -> Plain:
    """Mask the real architectures, with random weights unless others were given for them."""
    others = [name for name in settings.models if name not in TABLE_1]
    return {
        "rows": [row for model in TABLE_1 for row in _rows(settings, model)],
        "others": [_other(settings, model) for model in others],
        "within": {"params": PARAMS_WITHIN, "macs": MACS_WITHIN},
    }


def _rows(settings: Settings, model: str) -> list[Plain]:
    own = settings.of(model)
    weights = own["weights"] if model in settings.models else "random"
    rows = []
    for name, fraction in FRACTIONS.items():
        result = _masked(model, weights, settings.seed, fraction)
        found, paper = result.sparsity, TABLE_1[model]
        assert found is not None
        common = {"model": model, "weights": result.recipe["weights"]}
        if not rows:
            dense = {"params": found.params / 1e6, "macs": found.macs / 1e9}
            rows.append({**common, "row": "dense", **dense, "paper": _plain(paper["dense"])})
        sizes = {"params": _left(found) / 1e6, "macs": found.implied_macs / 1e9}
        even = {"even_macs": _even_macs(found, fraction) / 1e9}
        more = {"stages": _stages(found), "size_ratio": _size_ratio(found)}
        rows.append({**common, "row": name, **sizes, **even, **more, "paper": _plain(paper[name])})
    return rows


def _other(settings: Settings, model: str) -> Plain:
    """Count DIMAP3 on a model that the paper does not have, but that may be trained."""
    result = _masked(model, settings.of(model)["weights"], settings.seed, FRACTIONS["DIMAP3"])
    found = result.sparsity
    assert found is not None
    even = _even_macs(found, FRACTIONS["DIMAP3"])
    kept = {"macs": found.implied_macs / found.macs, "even_macs": even / found.macs}
    return {"model": model, "weights": result.recipe["weights"], **kept}


def _masked(model: str, weights: str, seed: int, fraction: float) -> Result:
    level: Any = {"granularity": "weight", "by": "slices", "scope": "kind"}
    return prune(model, "dimap", fraction, **level, weights=weights, seed=seed)


def _left(found: Sparsity) -> int:
    """Return the parameters that no mask removed; biases that start at zero are not zeros here."""
    return found.params - sum(layer.weights - layer.nonzero for layer in found.layers.values())


def _even_macs(found: Sparsity, fraction: float) -> float:
    """Return the MACs if every layer of a module kept the same fraction."""
    return found.macs - fraction * sum(layer.macs for layer in found.layers.values())


def _stages(found: Sparsity) -> list[Plain]:
    """Return for each stage what is kept of its weights, and what one weight costs in MACs."""
    stages = defaultdict(list)
    for name, layer in found.layers.items():
        stages[".".join(name.split(".")[:2])].append(layer)
    return [
        {
            "stage": stage,
            "kept": sum(x.nonzero for x in layers) / sum(x.weights for x in layers),
            "macs_per_weight": sum(x.macs for x in layers) / sum(x.weights for x in layers),
        }
        for stage, layers in stages.items()
    ]


def _size_ratio(found: Sparsity) -> float:
    """Return how many times as large as the smallest matrix of its module the largest is."""
    modules = defaultdict(list)
    for layer in found.layers.values():
        modules[layer.kind].append(layer.weights)
    return max(max(sizes) / min(sizes) for sizes in modules.values())


def _plain(row: Any) -> Plain:
    return {"params": row.params, "macs": row.macs}


NOTE = """\
`prune(model, "dimap", fraction, granularity="weight", by="slices", scope="kind")` on the real
architectures, with weights: {weights}. Parameters are those that are not masked, in millions; a
bias that starts at zero counts, since training moves it. MACs, in billions, are what one image of
224 pixels costs in matrix products and convolutions, attention's products of queries, keys and
values among them, and a layer's in proportion to its density. The paper's dense MACs agree with
that count, so theirs have attention's products in them too.

{params} of {rows} parameter counts are within {params_within} M of the paper's, {macs} MAC counts
within {macs_within} G, and {even} would be if every layer of a module had lost the same fraction
(*MACs, even*)."""
WHY = """\
**Why the MACs differ.** Eq. 10 divides a weight's square by what its layer still holds. Of two
layers whose weights are distributed alike, the one with N times as many weights therefore scores
each of them 1/N as high, and the module's one threshold takes more of it. Swin's late layers are
up to {ratio:.0f} times as large as the early ones of their module, and a weight of an early layer
is used at up to {uses:.0f} times as many places. So DIMAP keeps the early, costly weights, and the
MACs fall less than the parameters. The paper's MACs are what a density that is equal within a
module gives, to within {apart:.2f} G in all rows: they look counted that way, not from the
densities of Eq. 10."""
STAGES = """\
What DIMAP3 keeps of each stage's matrices, and the MACs of one weight of it:"""
OTHERS = """\
Is that because of random weights? Of other models DIMAP3 leaves so much of the MACs. (In a plain
ViT all weights of a module are used equally often, so that MACs do not depend on densities.)"""


def page(data: Plain) -> str:
    """Show all rows beside the paper's, and where differences of MACs come from."""
    rows = data["rows"]
    pruned = [row for row in rows if "even_macs" in row]
    apart = max(abs(row["even_macs"] - row["paper"]["macs"]) for row in pruned)
    costs = [stage["macs_per_weight"] for stage in pruned[0]["stages"]]
    uses = max(costs) / min(costs)
    why = WHY.format(ratio=pruned[0]["size_ratio"], uses=uses, apart=apart)
    shown = [_note(data), _table(rows), why, STAGES, _stage_table(rows)]
    return "\n\n".join(shown + ([OTHERS, _other_table(data["others"])] if data["others"] else []))


def _note(data: Plain) -> str:
    rows, within = data["rows"], data["within"]
    return NOTE.format(
        weights=", ".join(dict.fromkeys(row["weights"] for row in rows)),
        rows=len(rows),
        params=sum(agrees(row, "params", within["params"]) for row in rows),
        macs=sum(agrees(row, "macs", within["macs"]) for row in rows),
        even=sum(agrees(row, "macs", within["macs"], even=True) for row in rows),
        params_within=within["params"],
        macs_within=within["macs"],
    )


def agrees(row: Plain, what: str, within: float, *, even: bool = False) -> bool:
    """Say whether a row is as near to the paper's as asked, which is rounded itself."""
    found = row.get("even_macs", row["macs"]) if even else row[what]
    return bool(abs(found - row["paper"][what]) <= within)


def _table(rows: Sequence[Plain]) -> str:
    headings = ["", "params, M", "paper", "difference", "MACs, G", "paper", "difference"]
    return table([*headings, "MACs, even", "difference"], map(_row, rows))


def _row(row: Plain) -> list[str]:
    paper = row["paper"]
    params, macs = row["params"], row["macs"]
    line = [f"{row['model']} {row['row']}"]
    line += [f"{params:.2f}", f"{paper['params']:.1f}", f"{params - paper['params']:+.2f}"]
    line += [f"{macs:.2f}", f"{paper['macs']:.1f}", f"{macs - paper['macs']:+.2f}"]
    if "even_macs" not in row:
        return [*line, "", ""]
    return [*line, f"{row['even_macs']:.2f}", f"{row['even_macs'] - paper['macs']:+.2f}"]


def _stage_table(rows: Sequence[Plain]) -> str:
    deepest = [row for row in rows if row["row"] == "DIMAP3"]
    numbers = range(1, 1 + len(deepest[0]["stages"]))
    lines = [
        [
            row["model"],
            *(f"{100 * x['kept']:.1f} % of {x['macs_per_weight']:,.0f}" for x in row["stages"]),
        ]
        for row in deepest
    ]
    return table(["", *(f"stage {number}" for number in numbers)], lines)


def _other_table(others: Sequence[Plain]) -> str:
    lines = [
        [
            f"{one['model']} ({one['weights']} weights)",
            f"{100 * one['macs']:.1f} %",
            f"{100 * one['even_macs']:.1f} %",
        ]
        for one in others
    ]
    return table(["", "MACs", "MACs, even"], lines)


PART = Part("sizes", "Table 1's sizes", run, page)
