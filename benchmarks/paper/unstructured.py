"""Tables 3 and 4: DIMAP against uniform magnitude, and three modules against one; one shot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from prunekit.comparison.statistics import ANY, compare, holm
from prunekit.criteria.base import Scope

from .masked import Choice, OneShot
from .parts import Part, Plain, Settings, table, unpack
from .published import FRACTIONS, TABLE_3, TABLE_3_RATIOS

# The zoo's models have weights to spare, so the paper's regime, where uniform magnitude falls
# apart, is expected beyond its ratios. These were chosen before anything was run.
FURTHER_RATIOS = (0.60, 0.70, 0.80)
FURTHER_FRACTION = 0.85
METHODS: dict[str, tuple[str, Scope]] = {
    "uniform magnitude": ("magnitude", "axis"),
    "global magnitude": ("magnitude", "model"),
    "LAMP": ("lamp", "model"),
    "DIMAP": ("dimap", "kind"),
}
OURS = "DIMAP"
MODULES: dict[str, tuple[str, Scope]] = {
    "one module": ("dimap", "model"),
    "three modules": ("dimap", "kind"),
}


def run(settings: Settings) -> Plain:
    """Mask every model in every way, one shot, and test every pair of interest."""
    look = OneShot(settings)
    ratios = [*TABLE_3_RATIOS, *(FURTHER_RATIOS if settings.of_zoo else ())]
    fractions = [*FRACTIONS.values(), *([FURTHER_FRACTION] if settings.of_zoo else [])]
    by_ratio = {
        model: {
            name: [look(model, Choice(*scoring, ratio, "params")) for ratio in ratios]
            for name, scoring in METHODS.items()
        }
        for model in settings.models
    }
    by_module = {
        model: {
            name: [look(model, Choice(*scoring, fraction, "slices")) for fraction in fractions]
            for name, scoring in MODULES.items()
        }
        for model in settings.models
    }
    return {
        "table_3": {"ratios": ratios, "models": _plain(by_ratio), "pairs": _pairs(by_ratio, OURS)},
        "table_4": {
            "ratios": fractions,
            "models": _plain(by_module),
            "pairs": _pairs(by_module, "three modules"),
        },
    }


Rows = Mapping[str, Mapping[str, Sequence[Plain]]]  # model to method to one cell per ratio


def _plain(rows: Rows) -> Plain:
    """Return everything but the single answers, which only the tests needed."""
    return {
        model: {
            name: [{k: v for k, v in one.items() if k != "correct"} for one in line]
            for name, line in methods.items()
        }
        for model, methods in rows.items()
    }


def _pairs(rows: Rows, ours: str) -> list[Plain]:
    """Compare our method with every other, image by image, adjusted over the whole table."""
    pairs, compared = [], []
    for model, methods in rows.items():
        for name in methods:
            for number, (one, other) in enumerate(zip(methods[ours], methods[name], strict=True)):
                if name != ours and "correct" in one and "correct" in other:
                    pairs.append({"model": model, "against": name, "column": number})
                    compared.append(compare(_answers(one), _answers(other)))
    adjusted = holm([one.p for one in compared])
    return [
        {
            **pair,
            "difference": one.difference,
            "p": one.p,
            "adjusted": float(p),
            "verdict": one.verdict(float(p)),
        }
        for pair, one, p in zip(pairs, compared, adjusted, strict=True)
    ]


def _answers(one: Plain) -> Any:
    return {ANY: unpack(one["correct"], one["images"])}


NOTE_3 = """\
One shot, no training. *Uniform magnitude* removes the same fraction from every layer, as in the
paper; *global magnitude* and *LAMP* let all layers compete; DIMAP lets those of a module. Ratios
are of **all** parameters. At the level of single weights DIMAP's score is LAMP's, so LAMP is also
"all modules as one". The interval of 95 % is of other test images of the same kind.
Differences are in points of top-1; **bold** ones are significant: McNemar's exact test on the same
images, Holm's correction over all {pairs} pairs of this table, at 5 %."""
FURTHER_3 = """\
The columns from {first} on are not in the paper. They were chosen before anything was run, because
these models have weights to spare at the paper's ratios."""
NOTE_4 = """\
DIMAP1, 2 and 3 remove {fractions} of the weights of all matrices together; with three modules, of
each module. One shot here, where the paper's figures are after fine-tuning (see the next part);
significance as above, over all {pairs} pairs of this table."""


def page(data: Plain) -> str:
    """Show a table per model, and the paper's beside them."""
    third, fourth = data["table_3"], data["table_4"]
    ratios = third["ratios"]
    notes = [NOTE_3.format(pairs=len(third["pairs"]))]
    if len(ratios) > len(TABLE_3_RATIOS):
        notes.append(FURTHER_3.format(first=_percent(ratios[len(TABLE_3_RATIOS)])))
    fractions = ", ".join(_percent(one) for one in FRACTIONS.values())
    return "\n\n".join(
        [
            "### Table 3: uniform magnitude against DIMAP",
            *notes,
            _summary(third, OURS),
            *(_model(third, model, OURS, _percents(ratios)) for model in third["models"]),
            "**The paper**, ImageNet-1K, one shot",
            _papers(),
            "### Table 4: three modules against one, one shot",
            NOTE_4.format(fractions=fractions, pairs=len(fourth["pairs"])),
            _summary(fourth, "three modules"),
            *(
                _model(fourth, model, "three modules", _names(fourth["ratios"]))
                for model in fourth["models"]
            ),
        ]
    )


def _summary(part: Plain, ours: str) -> str:
    """Count how often ours is significantly better or worse than each of the others."""
    verdicts = defaultdict(list)
    for pair in part["pairs"]:
        verdicts[pair["against"]].append(pair["verdict"])
    lines = [
        f"- against {name}: better in {own.count('better')}, worse in {own.count('worse')}, not "
        f"significantly different in {own.count('tie')}"
        for name, own in verdicts.items()
    ]
    return "\n".join([f"Of all pairs of model and ratio, {ours}", "", *lines])


def _model(part: Plain, model: str, ours: str, headings: Sequence[str]) -> str:
    """Show a model's methods, and the differences of ours from each of the others."""
    methods = part["models"][model]
    rows = [[name, *map(_top1, line)] for name, line in methods.items()]
    for name in methods:
        if name != ours:
            differences = [_difference(part, model, name, n) for n in range(len(headings))]
            rows.append([f"{ours} − {name}", *differences])
    measured = next(one for one in methods[ours] if "dense" in one)
    return (
        f"**{model}**, dense {_top1({'masked': measured['dense']})}, "
        f"{measured['images']:,} test images\n\n{table(['top-1, %', *headings], rows)}"
    )


def _top1(one: Plain) -> str:
    if "problem" in one:
        return "out of reach"
    found = one["masked"]
    return f"{found['top1']:.2f} ({found['low']:.1f}–{found['high']:.1f})"


def _difference(part: Plain, model: str, against: str, column: int) -> str:
    wanted = {"model": model, "against": against, "column": column}
    for pair in part["pairs"]:
        if wanted.items() <= pair.items():
            text = f"{pair['difference']:+.2f}"
            return text if pair["verdict"] == "tie" else f"**{text}**"
    return ""


def _papers() -> str:
    rows = []
    for model, methods in TABLE_3.items():
        rows += [[f"{model} {name}", *map("{:.2f}".format, line)] for name, line in methods.items()]
        gains = [a - b for a, b in zip(methods["DIMAP"], methods["uniform"], strict=True)]
        rows.append([f"{model} DIMAP − uniform", *map("{:+.2f}".format, gains)])
    return table(["top-1, %", *_percents(TABLE_3_RATIOS)], rows)


def _names(fractions: Sequence[float]) -> list[str]:
    known = {fraction: name for name, fraction in FRACTIONS.items()}
    return [f"{known.get(one, 'ours')} ({_percent(one)})" for one in fractions]


def _percents(ratios: Sequence[float]) -> list[str]:
    return [_percent(ratio) for ratio in ratios]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


PART = Part("unstructured", "Single weights: Tables 3 and 4", run, page)
