"""proven: of the axes that were found without knowing a family, those that can be cut exactly.

A little of every axis is cut at once, and compared with the masked model. Where that fails, the
axes are halved, those of blocks that are alike together, until the culprits are alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..adapters.answers import axes_of
from ..adapters.finding import able, knowing
from ..adapters.within import Within
from ..arguments import Inputs
from ..auto.seeing import Seeing
from ..auto.words import ASKED
from ..axis import Axis
from ..errors import AdapterError, ParityError
from ..inputs.subject import Subject
from ..naming import some
from ..planning.plan import Plan
from ..tracing.graph import trace
from ..tracing.running import reason
from .hiding import lively
from .outputs import outputs_of
from .parity import Reference, verify
from .shrink import shrunk
from .silence import masked

SHARE = 4  # a little of an axis is at most one in so many slices
BITS = 2  # of the number of a group of axes, by which they are tried apart
ROUNDS = 24  # attempts, each of two forward passes, after which what is open is left alone


@dataclass(frozen=True)
class Unproven:
    """An axis that is left alone.

    Attributes:
        name: The axis'.
        reason: What went wrong when a little of it was cut.
    """

    name: str
    reason: str


def proven(subject: Subject, wanted: Collection[str] = ()) -> Subject:
    """Return a model whose adapter offers only what can be cut exactly; its warnings say the rest.

    Args:
        subject: The model.
        wanted: Which kinds of `ASKED` are; the others are not offered. Most users do not ask for
            them, and a proof costs forward passes.

    Raises:
        AdapterError: Nothing can be.
    """
    outer, model, example = subject.adapter, subject.model, subject.example
    if isinstance(outer, Within):  # nothing outside matters to what is inside
        adapter, model, example = outer.inner, outer.inside(model), outer.inputs
    else:
        adapter = outer
    if not isinstance(adapter, Seeing):
        return subject
    specs = axes_of(adapter, model)  # first, since it says if the model does not run
    noisy = lively(model, example)
    unwanted = [one.name for one in specs if one.kind in ASKED and one.kind not in wanted]
    axes = trace(noisy, [one for one in specs if one.name not in unwanted], adapter, example)
    others = [axis for axis in axes if axis.kind not in ASKED]
    failed = _failed_in_any(_alike(others), _Trial(noisy, adapter, example))
    for kind in ASKED:
        asked = [axis for axis in axes if axis.kind == kind]
        if asked:
            sound = _without(others, failed)
            failed += _failed_beside(asked, sound, _Trial(noisy, adapter, example))
    left = adapter.without([*(one.name for one in failed), *unwanted])
    if len(failed) == len(axes):
        raise AdapterError(
            f"Nothing of {type(model).__name__} can shrink: "
            f"{failed[0].reason if failed else 'there is only what axes has to name'}. Write an "
            "adapter for it (docs/own_adapter.md), and register it or pass it as adapter."
        )
    said = (*subject.warnings, *_better(model), *_idle(adapter), *_told(failed))
    proved = outer.around(left) if isinstance(outer, Within) else left
    return replace(subject, adapter=proved, warnings=said)


def _without(axes: Sequence[Axis], failed: Sequence[Unproven]) -> list[Axis]:
    """Return the axes that did not fail."""
    names = {one.name for one in failed}
    return [axis for axis in axes if axis.name not in names]


def _idle(adapter: Seeing) -> Iterator[str]:
    """Say which layers nothing is known of, such as heads that run in training only."""
    if adapter.idle:
        yield (
            f"Not seen: {some(adapter.idle)}, which take no part in evaluation; "
            "if they do in training, take them off before the small model is trained."
        )


def _better(model: nn.Module) -> Iterator[str]:
    """Say which adapter would be the better choice."""
    family = knowing(model)
    if family is not None and able(family, model)[0] is family:
        yield (
            f"The adapter {family.name!r} knows this family, head dimensions included; leave out "
            "the adapter 'auto' to use it."
        )


def _told(failed: Sequence[Unproven]) -> Iterator[str]:
    """Say what is left alone, in a line a reason."""
    reasons: dict[str, list[Unproven]] = {}
    for one in failed:
        reasons.setdefault(re.sub(r"\d+", "#", one.reason), []).append(one)
    for alike in reasons.values():
        yield f"Left alone: {some([one.name for one in alike])}, since {alike[0].reason}."


class _Trial:
    """Cuts some axes, and says what goes wrong.

    Attributes:
        model: What is cut, which is kept.
        adapter: Has declared the axes.
        example: One batch of inputs.
        left: How many attempts there may be.
        little: Whether little of an axis is cut, or half of it.
    """

    def __init__(self, model: nn.Module, adapter: Seeing, example: Inputs):
        self.model, self.adapter, self.example = model, adapter, example
        self.left, self.little = ROUNDS, True

    def __call__(self, axes: Sequence[Axis]) -> str | None:
        self.left -= 1
        plan = _at_random(axes, little=self.little)
        try:
            large = masked(self.model, axes, plan)
            small = shrunk(self.model, axes, plan, self.adapter).eval()
            expected = Reference(
                self.example,
                outputs_of(large, self.example),
                lambda: outputs_of(large, self.example, torch.float64),
            )
            verify(expected, small)
        except ParityError as error:
            if error.__cause__ is None:
                return "removing some of it is not the same as masking it"
            return f"the model does not run without some of it ({reason(error.__cause__)})"
        except Exception as error:  # of the model's own code
            return f"it cannot be cut ({reason(error)})"
        return None


def _failed_in_any(groups: list[list[Axis]], trial: _Trial) -> list[Unproven]:
    """Try a little of all axes at once, and then half of some, without the others.

    One axis may hide what another lacks, and another number of slices what this one does.
    """
    failed = list(_failed(groups, trial))
    trial.little = False
    numbers = range(len(groups))
    for bit in range(max(1, min(BITS, (len(groups) - 1).bit_length()))):
        for side in (0, 1):
            names = {one.name for one in failed}
            tried = [groups[number] for number in numbers if number >> bit & 1 == side]
            left = [[axis for axis in group if axis.name not in names] for group in tried]
            if any(left):
                failed += _failed([group for group in left if group], trial)
    return failed


def _failed_beside(asked: Sequence[Axis], sound: Sequence[Axis], trial: _Trial) -> list[Unproven]:
    """Try axes that were asked for alone, and then with all that is proven."""
    matched: dict[str, list[Axis]] = {}
    for axis in asked:  # what has to agree is right or wrong together
        matched.setdefault(re.sub(r"\d+", "#", axis.spec.match or axis.name), []).append(axis)
    failed = _failed_in_any(list(matched.values()), trial)
    left = _without(asked, failed)
    trial.little = True
    problem = trial([*sound, *left]) if left else None
    return failed + [Unproven(axis.name, problem) for axis in left if problem]


def _failed(groups: list[list[Axis]], trial: _Trial) -> Iterator[Unproven]:
    """Halve groups of axes until those that fail are alone."""
    problem = trial([axis for group in groups for axis in group])
    if problem is None:
        return
    if len(groups) == 1:
        (group,) = groups
        if trial.left > 0 and len(group) > 1 and not (trial(group[:1]) and trial(group[-1:])):
            groups = [[axis] for axis in group]  # they are not as alike as their names
    if len(groups) == 1 or trial.left <= 0:
        yield from (Unproven(axis.name, problem) for group in groups for axis in group)
        return
    middle = len(groups) // 2
    for half in (groups[:middle], groups[middle:]):
        yield from _failed(half, trial)


def _alike(axes: Sequence[Axis]) -> list[list[Axis]]:
    """Put axes together whose names differ in numbers only."""
    groups: dict[str, list[Axis]] = {}
    for axis in axes:
        groups.setdefault(re.sub(r"\d+", "#", axis.name) + axis.kind, []).append(axis)
    return list(groups.values())


def _at_random(axes: Sequence[Axis], *, little: bool) -> Plan:
    """Cut every axis at random, and if little by another number: two tied in secret would agree."""
    kept: dict[str, tuple[int, ...]] = {}
    numbers: dict[str, int] = {}  # of axes whose counts have to agree, one
    for axis in axes:
        number = numbers.setdefault(axis.spec.match or axis.name, len(numbers))
        length = axis.size // axis.spec.groups
        gone = 1 + number % max(1, length // SHARE) if little else length // 2
        chance = torch.Generator().manual_seed(len(kept))
        kept[axis.name] = tuple(
            group * length + position
            for group in range(axis.spec.groups)
            for position in sorted(torch.randperm(length, generator=chance)[gone:].tolist())
        )
    return Plan(kept, {axis.name: axis.size for axis in axes}, "slices", 0.0, 0.0)
