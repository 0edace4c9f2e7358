"""mask: from a model to a copy of it in which single weights are zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..axis import Axis
from ..criteria.base import Criterion, Scope
from ..errors import BudgetError, CriterionError, RepairError
from ..inputs.subject import Subject
from ..measuring.counting import mac_terms
from ..planning.budget import Budget
from ..planning.plan import Plan
from ..recovery.training import Epoch, train_
from ..repairs.base import Repair
from ..result import Round
from ..statistics import gather
from ..weights.granularity import Granularity
from ..weights.masking import verify_masks, zeroed
from ..weights.masks import MaskPlan, make_masks, make_pattern
from ..weights.matrices import in_groups, weight_axes
from ..weights.zeros import Sparsity, count, nonzero
from .slices import SCORING_BATCH, Choices, Watch

FLOOR, MULTIPLE = 0.1, 8  # what `prune` defaults to


@dataclass(frozen=True)
class Masked:
    """A masked model, and what was decided and found out on the way.

    Attributes:
        model: Of the same shape as the original, sharing nothing with it.
        plan: Which slices left: none; and what the budget was.
        masks: Which weights stayed.
        sparsity: What was counted on the model.
        round: The proof that it is what was planned, and how training went.
        warnings: What may surprise about it.
    """

    model: nn.Module
    plan: Plan
    masks: MaskPlan
    sparsity: Sparsity
    round: Round
    warnings: tuple[str, ...]


def check_applies(
    level: Granularity,
    criterion: Criterion,
    repair: Repair,
    ratio: float | None,
    scope: Scope | None,
    steps: int,
    floor: float,
    multiple: int,
) -> None:
    """Refuse what says nothing about single weights, rather than pass it over in silence.

    Raises:
        PruneError: One of its children.
    """
    if not criterion.weight_level:
        raise CriterionError(
            f"Criterion {criterion.name!r} does not say that it can score single weights, which "
            f"granularity {level.text!r} needs; choose another, or declare it with "
            "weight_level=True if it can."
        )
    if repair.name != "none":
        raise RepairError(
            f"Repair {repair.name!r} refits layers that miss inputs, and single weights that "
            f"become zero (granularity {level.text!r}) take none away; leave the repair out."
        )
    if steps != 1:
        raise BudgetError(
            f"Asked for {steps} steps at granularity {level.text!r}, which prunes in one; leave "
            "the steps out, or prune slices."
        )
    if level.pattern and ratio is not None:
        n, m = level.pattern
        raise BudgetError(
            f"The ratio is {ratio:g}, but granularity {level.text!r} settles how much leaves, "
            f"{m - n} of every {m} weights; leave the ratio out, or take granularity 'weight'."
        )
    if level.pattern and scope is not None:
        raise BudgetError(
            f"The scope is {scope!r}, but at granularity {level.text!r} weights compete with the "
            f"{level.pattern[1]} of their group only; leave the scope out, or take granularity "
            "'weight'."
        )
    for name, value, default in (("floor", floor, FLOOR), ("multiple", multiple, MULTIPLE)):
        if value != default:
            raise BudgetError(
                f"The {name} is {value:g}, but single weights (granularity {level.text!r}) have "
                f"none; leave the {name} out, or prune slices."
            )


def mask(
    subject: Subject,
    ratio: float,
    level: Granularity,
    choices: Choices,
    watch: Watch,
    on_epoch: Callable[[Epoch], None],
) -> Masked:
    """Score single weights, choose, make zero, prove it, and train what stays.

    Args:
        subject: The original model; not modified.
        ratio: The fraction of it that is to become zero, unless the level settles that.
        level: Whether weights compete in pools, or in groups of m.
        choices: All that was chosen.
        watch: Is told what happens.
        on_epoch: Called after every epoch of training.

    Raises:
        PruneError: One of its children.
    """
    with watch("trace"):
        axes = weight_axes(
            subject.model, subject.adapter, choices.kinds, choices.include, choices.exclude
        )
        axes, warnings = in_groups(axes, level.pattern[1]) if level.pattern else (axes, [])
    with watch("score"):
        scores = choices.criterion(_informed(axes, subject, choices))
    with watch("plan"):
        masks = _planned(axes, scores, subject, ratio, level, choices)
        del scores  # as large as the model
    with watch("mask"):
        small = zeroed(subject.model, masks.kept).eval()
    with watch("verify"):
        proof = verify_masks(subject.model, small, masks.kept)
    with watch("count"):
        before = nonzero(subject.model)
        found = _counted(small, masks, subject, before)
    asked = found.removed(choices.by) if level.pattern else ratio
    done = Round(asked, None, masking=proof)
    if choices.recipe is not None:
        with watch("train"):
            trained = train_(
                small,
                choices.data.calibration if choices.data else None,
                choices.recipe,
                teacher=subject.model,
                masks=masks.kept,
                seed=choices.seed,
                device=next(small.parameters()).device.type,
                on_epoch=on_epoch,
            )
            done = replace(done, trained=trained)
        found = _counted(small, masks, subject, before)  # training may make one more, by chance
    plan = Plan({}, {}, choices.by, asked, found.removed(choices.by))
    return Masked(small, plan, masks, found, done, tuple(warnings))


def _informed(axes: list[Axis], subject: Subject, choices: Choices) -> list[Axis]:
    need = choices.criterion.needs
    if need == "nothing":
        return axes
    images = choices.drawn(f"Criterion {choices.criterion.name!r}", SCORING_BATCH)
    return gather(need, subject.model, axes, images)


def _planned(
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    subject: Subject,
    ratio: float,
    level: Granularity,
    choices: Choices,
) -> MaskPlan:
    if level.pattern:
        return make_pattern(axes, scores, *level.pattern)
    budget = _budget(axes, subject, ratio, choices)
    return make_masks(axes, scores, budget, scope=choices.scope)


def _counted(small: nn.Module, masks: MaskPlan, subject: Subject, before: int) -> Sparsity:
    return count(small, masks.kinds, subject.example, masks.granularity, masks.thresholds, before)


def _budget(axes: Sequence[Axis], subject: Subject, ratio: float, choices: Choices) -> Budget:
    if choices.by == "macs":
        terms = mac_terms(subject.model, [], subject.example)
        return Budget(ratio, "macs", sum(term.cost for term in terms), terms)
    counted = (
        [axis.size for axis in axes]
        if choices.by == "slices"
        else [parameter.numel() for parameter in subject.model.parameters()]
    )
    return Budget(ratio, choices.by, float(sum(counted)))
