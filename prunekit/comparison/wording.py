"""Wording: what a ranking says, in words that claim no more than its tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cell import NONE
from .findings import Column, Pair, Row, Standing
from .naming import is_control

HALF = 0.5  # the answer is about the budget nearest to this
NAMED = 4  # tied rows at most, before they are only counted
VARIANTS = 3  # repairs and recipes at most that the answer speaks of, after the plain one

SINGLE = "Where there is one seed only, how much of a difference is its luck is not known."
BUDGETS = {"params": "parameters", "macs": "MACs", "latency": "latency", "memory": "peak memory"}


def answer(standings: Sequence[Standing]) -> str:
    """Say in two sentences who leads: first of the plainest runs, then of the others.

    They speak of the budget nearest to one half. A criterion is said to lead if none is above
    it in top-1, and which others are tied with it is said along with that; nothing is said of
    differences between columns, which are not tested. A third sentence warns of single seeds.

    Args:
        standings: The rankings of all columns.
    """
    if not standings:
        return "No cell has been run yet."
    ratio = min((one.column.ratio for one in standings), key=lambda r: (abs(r - HALF), r))
    near = [one for one in standings if one.column.ratio == ratio]
    plain, *others = sorted({_variant(one.column) for one in near}, key=_plainness)
    told = [plain, *others[:VARIANTS]]
    by_variant = {each: [one for one in near if _variant(one.column) == each] for each in told}
    setting = [f"{_percent(ratio)}{_of(near)} removed", *_words(plain)]
    sentences = [f"With {_list(setting)}, {_leaders(by_variant[plain])}."]
    if others:
        said = [f"with {_list(_words(one))}, {_leaders(by_variant[one])}" for one in told[1:]]
        sentences.append(f"{_capital('; '.join(said))}.")
    if any(_is_single(row) for found in by_variant.values() for one in found for row in one.rows):
        sentences.append(SINGLE)
    return " ".join(sentences)


def sentence(rows: Sequence[Row], pairs: Sequence[Pair]) -> str:
    """Say who leads one column, who is tied, and where the random control is.

    Args:
        rows: Ranked ones first, best first.
        pairs: All pairs of ranked rows.
    """
    ranked = [row for row in rows if row.rank is not None]
    clauses = _lead(ranked) if ranked else ["nothing can be ranked"]
    clauses += [_control(row, ranked, pairs) for row in ranked if _is_behind(row)]
    for state, unranked in (
        ("missed the budget", [row for row in rows if row.missed]),
        ("had a problem", [row for row in rows if row.problem is not None]),
    ):
        if unranked:
            clauses.append(f"{_rows(unranked, noun='rows')} {state}")
    return _capital("; ".join(clauses)) + "."


def _lead(ranked: Sequence[Row]) -> list[str]:
    first, *others = ranked
    figure = f"{_points(first.top1)} % [{_points(first.low)}, {_points(first.high)}]"
    if not others:
        return [f"{_name(first)} alone is ranked, at {figure}"]
    tied = [row for row in others if row.leads]
    if not tied:
        return [f"{_name(first)} leads with {figure}, {_clear(others)}"]
    verb = "is" if len(tied) == 1 else "are"
    return [f"{_name(first)} leads with {figure}", f"{_rows(tied, others)} {verb} tied with it"]


def _control(control: Row, ranked: Sequence[Row], pairs: Sequence[Pair]) -> str:
    """Say where a random control is, and which rows the tests do not put above it."""
    verdicts = {pair.second: pair.verdict for pair in pairs if pair.first == control.name}
    mirror = {"better": "worse", "worse": "better", "tie": "tie"}
    verdicts |= {p.first: mirror[p.verdict] for p in pairs if p.second == control.name}
    clause = f"{_name(control)} is at {_points(control.top1)} %"
    for words, verdict in (("tied with", "tie"), ("above", "better")):
        those = [row for row in ranked if verdicts.get(row.name) == verdict]
        if those:
            clause += f", {words} {_rows(those, [row for row in ranked if row is not control])}"
    return clause


def _leaders(standings: Sequence[Standing]) -> str:
    """Say who leads where, places with the same leader together."""
    groups: dict[str, list[str]] = {}
    for standing in standings:
        ranked = [row for row in standing.rows if row.rank is not None]
        place = _place(standing.column, standings)
        if not ranked:
            groups.setdefault("nothing can be ranked on", []).append(place)
        elif len(ranked) == 1:
            key = f"{_name(ranked[0])} alone is ranked on"
            groups.setdefault(key, []).append(f"{place} ({_points(ranked[0].top1)} % top-1)")
        else:
            key = f"{_name(ranked[0])} leads on"
            groups.setdefault(key, []).append(f"{place} ({_margin(ranked)})")
    return ", and ".join(f"{key} {_list(places)}" for key, places in groups.items())


def _margin(ranked: Sequence[Row]) -> str:
    """Say how far ahead the first of several rows is."""
    first, *others = ranked
    tied = [row for row in others if row.leads]
    words = [f"{_points(first.top1)} % top-1"]
    words.append(f"within noise of {_rows(tied, others)}" if tied else _clear(others))
    words += [f"{_name(row)} at {_points(row.top1)} %" for row in others if _is_behind(row)]
    return ", ".join(words)


def _clear(others: Sequence[Row]) -> str:
    """Say that the first row is better than all others by the tests, and how many they are."""
    return "clear of the one other" if len(others) == 1 else f"clear of all {len(others)} others"


def _place(column: Column, standings: Iterable[Standing]) -> str:
    """Name where a column is, with what sets it apart from others of the same variant."""
    columns = [standing.column for standing in standings]
    same = [other for other in columns if other.arch == column.arch]
    axes = f" with axes {'+'.join(column.axes)}" if len({one.axes for one in same}) > 1 else ""
    by = f" by {BUDGETS.get(column.by, column.by)}" if len({one.by for one in columns}) > 1 else ""
    return f"{column.arch}{axes}{by}"


def _rows(rows: Sequence[Row], of: Sequence[Row] = (), noun: str = "others") -> str:
    """Name a few rows, count many, and say in any case whether the control is among them."""
    if len(rows) <= NAMED:
        return _list([_name(row) for row in rows])
    counted = f"{'all ' if len(rows) == len(of) else ''}{len(rows)} {noun}"
    controls = [_name(row) for row in rows if is_control(row.criterion)]
    return f"{counted} including {_list(controls)}" if controls else counted


def _name(row: Row) -> str:
    """Name a row in a sentence, where a comma would be misread."""
    plain = row.criterion
    if is_control(plain):
        plain = "the random control" if ":" not in plain else f"the control {plain}"
    return plain if row.name == row.criterion else f"{plain} in scope {row.scope}"


def _is_behind(row: Row) -> bool:
    """Tell whether a row is a random control that something is better than."""
    return is_control(row.criterion) and not row.leads


def _is_single(row: Row) -> bool:
    """Tell whether a ranked row might have come out otherwise with another seed than its only."""
    return row.rank is not None and row.seeded and len(row.seeds) == 1


def _of(standings: Iterable[Standing]) -> str:
    """Say what the ratio is of, if it is the same for all."""
    counted = {one.column.by for one in standings}
    return f" of {BUDGETS.get(*counted, *counted)}" if len(counted) == 1 else ""


def _variant(column: Column) -> tuple[str, str]:
    return column.finetune, column.repair


def _plainness(variant: tuple[str, str]) -> tuple[bool, str, bool, str]:
    finetune, repair = variant
    return finetune != NONE, finetune, repair != NONE, repair


def _words(variant: tuple[str, str]) -> list[str]:
    finetune, repair = variant
    done = [f"repair {repair}"] if repair != NONE else []
    done += [f"fine-tuning {finetune}"] if finetune != NONE else []
    return done or ["no repair"]


def _list(words: Sequence[str]) -> str:
    """Join words as people do.

    Example:
        >>> _list(["lamp"]), _list(["lamp", "dimap", "flap"])
        ('lamp', 'lamp, dimap and flap')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _capital(words: str) -> str:
    """Begin as a sentence does, unless with a criterion, whose name is not to be changed."""
    common = words.startswith(("the ", "with ", "nothing "))
    return words[0].upper() + words[1:] if common else words


def _points(value: float | None) -> str:
    assert value is not None, "only rows with figures are spoken of"
    return f"{value:.1f}"


def _percent(ratio: float) -> str:
    return f"{round(100 * ratio, 2):g} %"
