"""The paper's claims, each reproduced or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import judging
from .judging import WORST_LOSS, Finding, Parts
from .parts import Part, Plain, Settings, read, table

NOT_RUN = "not run"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
        says: What it states.
        where: In which place.
        rule: When it counts as reproduced.
        needs: The parts that it is judged by; none for the paper's own figures.
        judge: Decides, given the data of all parts that there are.
    """

    says: str
    where: str
    rule: str
    needs: tuple[str, ...]
    judge: Callable[[Parts], Finding]


def run(settings: Settings) -> Plain:
    """Judge every claim by the parts that are there."""
    names = dict.fromkeys(name for claim in CLAIMS for name in claim.needs)
    kept = {name: read(settings.out, name) for name in names}
    parts = {name: one["data"] for name, one in kept.items() if one}
    return {"claims": [_judged(claim, parts) for claim in CLAIMS]}


def _judged(claim: Claim, parts: Parts) -> Plain:
    missing = [name for name in claim.needs if name not in parts]
    said = f"the part {missing[0]} has not been run" if missing else ""
    found = Finding(NOT_RUN, said) if missing else claim.judge(parts)
    about = {"says": claim.says, "where": claim.where, "rule": claim.rule}
    return {**about, "verdict": found.verdict, "numbers": found.numbers}


TWO_THIRDS = (
    "significantly better at some ratio and worse at none on at least two thirds of the models, "
    "and significantly worse on none"
)
SEEN = "so in the block drawn, as in the paper's drawing, and in the mean of all blocks"
CLAIMS = (
    Claim(
        "Swin-B, S and T have so many parameters, dense and after DIMAP1, 2 and 3",
        "Table 1",
        "all rows within 0.1 M",
        ("sizes",),
        judging.params,
    ),
    Claim(
        "they cost so many FLOPs, dense", "Table 1", "within 0.2 G", ("sizes",), judging.dense_macs
    ),
    Claim(
        "and so many after DIMAP1, 2 and 3",
        "Table 1",
        "within 0.2 G, counted from the masks",
        ("sizes",),
        judging.masked_macs,
    ),
    Claim(
        "DIMAP3 removes 52.5 % of Swin-B's parameters",
        "Table 1",
        "within 0.2 points",
        ("sizes",),
        judging.swin_b_params,
    ),
    Claim(
        "and 52.7 % of its FLOPs",
        "Table 1",
        "within 0.2 points, counted from the masks",
        ("sizes",),
        judging.swin_b_macs,
    ),
    Claim(
        "52.5 % FLOPs and 52.7 % parameters of Swin-B removed",
        "abstract",
        "as in the paper's own Table 1",
        (),
        judging.swapped,
    ),
    Claim(
        "a 0.8 % higher relative top-5 of Swin-S",
        "abstract",
        "as in the paper's own Table 1, rounded",
        (),
        judging.relative_top5,
    ),
    Claim(
        "top-1 of Swin-B, S and T after fine-tuning; Swin-B loses 0.2 points by DIMAP3",
        "Table 1",
        "all rows within 0.25 points",
        ("finetuned",),
        judging.table_1_accuracies,
    ),
    Claim(
        "after fine-tuning DIMAP1 costs next to nothing",
        "Table 1",
        "not significantly worse than dense, on any model",
        ("finetuned",),
        judging.nothing_lost,
    ),
    Claim(
        "after fine-tuning DIMAP3 costs little",
        "Table 1",
        f"at most {WORST_LOSS} points, the most that it costs in the paper",
        ("finetuned",),
        judging.little_lost,
    ),
    Claim(
        "one shot, DIMAP beats uniform magnitude at 19, 28, 38 and 50 % of all parameters",
        "Table 3",
        TWO_THIRDS,
        ("unstructured",),
        judging.better_at_the_papers_ratios,
    ),
    Claim(
        "the same, with higher ratios counted too where they were run",
        "Table 3",
        TWO_THIRDS,
        ("unstructured",),
        judging.better_at_any_ratio,
    ),
    Claim(
        "its advantage grows with the ratio",
        "Table 3",
        "largest and significant at the highest ratio on at least two thirds of the models, and "
        "significantly negative there on none",
        ("unstructured",),
        judging.grows,
    ),
    Claim(
        "at 50 % uniform magnitude collapses, to 6 to 15 % top-1",
        "Table 3",
        "it falls below half of the dense top-1 on at least two thirds of the models",
        ("unstructured",),
        judging.collapses,
    ),
    Claim(
        "three modules are better than one, after fine-tuning, at DIMAP3",
        "Table 4",
        "significantly better on every model",
        ("finetuned",),
        judging.three_better_after_training,
    ),
    Claim(
        "the same one shot, which the paper does not show",
        "Table 4",
        TWO_THIRDS,
        ("unstructured",),
        judging.three_better_than_one,
    ),
    Claim(
        "a layer's largest weight scores 1",
        "Eq. 10",
        "exactly, in every layer",
        ("pictures",),
        judging.largest_scores_1,
    ),
    Claim(
        "so that no layer vanishes",
        "Eq. 10",
        "something is left of every layer",
        ("pictures",),
        judging.no_layer_vanishes,
    ),
    Claim("no data is needed", "method", "by construction", (), judging.without_data),
    Claim(
        "queries and keys stay denser than values",
        "Figure 6",
        SEEN,
        ("pictures",),
        judging.queries_denser,
    ),
    Claim(
        "whole rows of fc1 vanish",
        "Figure 6",
        f"more than by chance (in brackets): {SEEN}",
        ("pictures",),
        judging.rows_vanish,
    ),
    Claim(
        "fc1 and fc2 show the same pattern",
        "Figure 6",
        f"a positive rank correlation over hidden channels: {SEEN}; significant in every block",
        ("pictures",),
        judging.same_pattern,
    ),
    Claim(
        "masks of single weights bring no realistic acceleration",
        "limitations",
        "at no batch size is the dense model slower in every go of timing",
        ("small",),
        judging.no_acceleration,
    ),
    Claim(
        "other vision transformers, one shot against uniform magnitude",
        "left open",
        TWO_THIRDS,
        ("unstructured",),
        judging.better_on_others,
    ),
    Claim(
        "downstream tasks",
        "left open",
        "",
        (),
        judging.unchecked("prunekit classifies only"),
    ),
)

NOTE = """\
Every verdict is computed by the rule beside it from the numbers of the parts below. *At small
scale*: on the zoo's models and Fashion-MNIST, not on the paper's models and ImageNet. *Not
reproduced* may mean that nothing differs significantly; the numbers say whether it does the other
way."""


def page(data: Plain) -> str:
    """Show how many claims came out how, and all of them."""
    claims = data["claims"]
    verdicts = [claim["verdict"] for claim in claims]
    counted = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts))
    rows = [(c["says"], c["where"], f"**{c['verdict']}**", c["numbers"], c["rule"]) for c in claims]
    headings = ("claim", "where", "verdict", "numbers", "rule")
    return (
        f"{NOTE}\n\nOf {len(claims)} claims: {counted}.\n\n{table(headings, rows, numbers=False)}"
    )


PART = Part("claims", "The paper's claims", run, page)
