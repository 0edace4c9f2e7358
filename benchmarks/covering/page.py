"""The page: outcomes by class, and every refusal with its reason."""

from __future__ import annotations

import re
import statistics
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from page import facts
from scipy.stats import binomtest

from .names import TORCHVISION, all_names

OUTCOMES = ("ok", "wrong", "refused", "crash", "slow", "too large")
Found = dict[str, Any]


def write_page(
    path: Path, found: Sequence[Found], theirs: Sequence[Found], args: Namespace
) -> None:
    """Write the page of all that was tried, with prunekit and with torch-pruning alone."""
    path.write_text("\n".join([*_lines(found, args), *_rival(theirs, found)]) + "\n")


def _lines(found: Sequence[Found], args: Namespace) -> Iterator[str]:
    yield "# Which architectures prunekit prunes exactly"
    yield ""
    yield (
        "Random weights, 30 % of parameters removed, with the adapter and the axes that `prune()` "
        "takes by itself. *ok*: the small model equals its masked self, loads bit for bit, and "
        "trains. *wrong*: it does not. *slow*: it took over ten minutes on one core, of a machine "
        "that other work shared. Everything else was refused, in a sentence, or could not be tried."
    )
    yield ""
    yield facts(args.seed, threads=1)
    yield ""
    there = all_names()
    for title, own in (("timm", False), ("torchvision", True)):
        some, whole = (
            [name for name in names if name.startswith(TORCHVISION) == own]
            for names in ([one["name"] for one in found], there)
        )
        if some:
            yield f"{len(some)} of the {len(whole):,} names of {title} have been tried so far."
            yield ""
            yield from _summary(title, [one for one in found if one["name"] in some], len(whole))
    yield from _by_class(found)
    yield from _reasons(found)
    yield from _short_of(found)


def _summary(title: str, found: Sequence[Found], whole: int) -> Iterator[str]:
    counts = Counter(one["outcome"] for one in found)
    said = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
    share = counts["ok"] / len(found)
    yield f"**{title}**: {counts['ok']} of {len(found)} names ({share:.1%}): {said}."
    if len(found) < whole:
        sure = binomtest(counts["ok"], len(found)).proportion_ci()
        yield (
            "They were drawn at random, but for one of every module. As a sample, they say that "
            f"between {sure.low:.1%} and {sure.high:.1%} of all {whole:,} names are *ok* (95 %, "
            "Clopper and Pearson)."
        )
    looked = [one for one in found if one.get("adapter") == "auto" and one.get("forward")]
    if looked:
        cheap = sum(one["prove"] <= 12 * one["forward"] for one in looked)
        yield (
            f"Of {len(looked)} that `auto` pruned, finding and proving axes took less processor "
            f"time than 12 forward passes of one image for {cheap / len(looked):.0%}."
        )
    attend = [one for one in found if one.get("attends")]
    if attend:
        heads = sum("head" in one["kinds"] for one in attend)
        yield (
            f"Of {len(attend)} that multiply matrices as attention does, heads left in {heads} "
            f"({heads / len(attend):.0%})."
        )
    checked = [one for one in found if "short_of" in one]
    if checked:
        all_of = sum(not one["short_of"] for one in checked)
        others = "; the others are listed below" if all_of < len(checked) else ""
        yield (
            f"Of {len(checked)} that were held to what timm's own tests ask, {all_of} do all that "
            f"the large model does{others}."
        )
    counted = [one["passes"] for one in found if one.get("passes")]
    if counted:
        few = sum(passes <= 12 for passes in counted)
        yield (
            f"The proof took at most 12 forward passes for {few / len(counted):.0%} of the "
            f"{len(counted)} where they were counted; {statistics.median(counted):g} in the median."
        )
    yield ""


def _by_class(found: Sequence[Found]) -> Iterator[str]:
    rows: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        rows[one.get("class", "(not built)")].append(one)
    yield "## By class"
    yield ""
    yield "| class | names | ok | adapter | axes of one | others |"
    yield "|---|---:|---:|---|---|---|"
    for name, ones in sorted(rows.items()):
        fine = [one for one in ones if one["outcome"] == "ok"]
        adapters = ", ".join(sorted({one.get("adapter", "") for one in ones}))
        kinds = fine[0]["kinds"] if fine else {}
        axes = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        others = Counter(one["outcome"] for one in ones if one["outcome"] != "ok")
        rest = ", ".join(f"{count} {outcome}" for outcome, count in others.items())
        yield f"| {name} | {len(ones)} | {len(fine)} | {adapters} | {axes} | {rest} |"
    yield ""


def _reasons(found: Sequence[Found]) -> Iterator[str]:
    yield "## Why not"
    yield ""
    yield "| outcome | reason | names |"
    yield "|---|---|---|"
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in found:
        if one["outcome"] != "ok":
            why = re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", str(one["why"])).replace("|", "\\|")
            reasons[one["outcome"], why].append(one["name"])
    for (outcome, why), names in sorted(reasons.items(), key=lambda entry: -len(entry[1])):
        yield f"| {outcome} | {why} | {', '.join(names)} |"


def _short_of(found: Sequence[Found]) -> Iterator[str]:
    """Say what pruned models do not do that the large ones do."""
    rows = [
        f"| {one['name']} | {claim} | {why} |"
        for one in found
        for claim, why in one.get("short_of", {}).items()
    ]
    if rows:
        yield from ("", "## What pruned models do not do", "", "| name | claim | problem |")
        yield "|---|---|---|"
        yield from rows


def _rival(theirs: Sequence[Found], ours: Sequence[Found]) -> Iterator[str]:
    """Say what torch-pruning's own pruner makes of the same names."""
    if not theirs:
        return
    outcomes = {one["name"]: one["outcome"] for one in ours}
    yield ""
    yield "## torch-pruning's own pruner"
    yield ""
    yield (
        "`BasePruner` with `GroupMagnitudeImportance` and one ratio for all layers but the "
        "classifier, which takes about 30 % of the parameters, on the same models with noise for "
        "weights. *ok*: it runs, is smaller, and equals the model in which what left is silent, to "
        "1e-4 of the output's scale. *not judged*: it runs, but cuts through a norm of which no "
        "masked self is known here."
    )
    yield ""
    for title, own in (("timm, one name of a module", False), ("torchvision", True)):
        some = [one for one in theirs if one["name"].startswith(TORCHVISION) == own]
        if not some:
            continue
        counts = Counter(one["outcome"] for one in some)
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        same = [outcomes[one["name"]] for one in some if one["name"] in outcomes]
        yield f"**{title}**: {said} of {len(some)}; prunekit: {same.count('ok')} ok of {len(same)}."
        yield ""
    yield "| name | outcome | reason | prunekit |"
    yield "|---|---|---|---|"
    for one in sorted(theirs, key=lambda one: str(one["name"])):
        if one["outcome"] != "ok":
            why = str(one["why"]).replace("|", "\\|")
            yield f"| {one['name']} | {one['outcome']} | {why} | {outcomes.get(one['name'], '')} |"
