"""Job: all that a run works with; Outcome: what either way of pruning gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ..adapters.answers import default_kinds_of
from ..auto.words import ASKED
from ..cutting.proof import proven
from ..errors import AdapterError, DataError
from ..inputs.data import Batches, Data, batches
from ..inputs.subject import Subject, find_images, find_subject
from ..planning.plan import Plan
from ..recovery.training import Epoch, Trained, check_trainable, train_
from ..request import SEARCH, Request
from ..result import Round
from ..shared import Shared
from ..weights.masks import MaskPlan
from ..weights.zeros import Sparsity
from .watch import Watch

SCORING_BATCH = 64  # images in a forward and backward pass
REPAIR_BATCH = 32  # images in a forward pass of two models


@dataclass(frozen=True)
class Outcome:
    """What came of pruning, by slices or by single weights.

    Attributes:
        model: The pruned model.
        plan: Which slices stay; of single weights, what the budget was.
        rounds: What happened in each round.
        kinds: Axis, or weight matrix, to its kind.
        scores: Axis to the criterion's scores; empty for single weights, which are too many.
        masks: Which single weights stayed; None if slices left.
        sparsity: What was counted on a masked model; None if slices left.
        warnings: What may surprise about it.
    """

    model: nn.Module
    plan: Plan
    rounds: tuple[Round, ...]
    kinds: Mapping[str, str]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    masks: MaskPlan | None = None
    sparsity: Sparsity | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What was asked for, of which model, with which images.

    Attributes:
        request: What was asked for.
        subject: The model; not modified.
        data: Images; None if there are none.
        shared: What other runs have found out.
        watch: Is told what happens.
        on_epoch: Called after every epoch of training.
    """

    request: Request
    subject: Subject
    data: Data | None
    shared: Shared
    watch: Watch
    on_epoch: Callable[[Epoch], None]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of axes that may shrink; of the adapter's default ones, those there are."""
        adapter, model = self.subject.adapter, self.subject.model
        if self.request.axes or self.request.level.masks:
            return tuple(self.request.axes or ())
        return default_kinds_of(adapter, model)

    @property
    def chosen(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """What says which axes may shrink: kinds, and the patterns of names."""
        return self.kinds, tuple(self.request.include), tuple(self.request.exclude)

    @property
    def calibration(self) -> int:
        """How many calibration images are used: what was asked for, or all there are."""
        found: Any = self.data.calibration if self.data else None
        return min(self.request.calibration, len(found)) if found is not None else 0

    def drawn(self, size: int) -> Batches:
        """Return the calibration images, in batches of a size."""
        assert self.data is not None, "prepare() refuses requests that lack images"
        assert self.data.calibration is not None, "prepare() refuses requests that lack images"
        return batches(
            self.data.calibration, size, limit=self.request.calibration, seed=self.request.seed
        )

    def train_(self, model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Trained:
        """Train a pruned model as was asked for; only what the masks allow changes."""
        assert self.request.finetune is not None, "only called where training was asked for"
        return train_(
            model,
            self.data.calibration if self.data else None,
            self.request.finetune,
            teacher=self.subject.model,
            masks=masks,
            seed=self.request.seed,
            device=next(model.parameters()).device.type,
            on_epoch=self.on_epoch,
        )


def prepare(
    request: Request,
    shared: Shared,
    watch: Watch,
    on_epoch: Callable[[Epoch], None],
    *,
    looks: bool = False,
) -> Job:
    """Find the model and the images, and refuse what they cannot give.

    Args:
        request: What was asked for.
        shared: What other runs have found out.
        watch: Is told what happens.
        on_epoch: Called after every epoch of training.
        looks: Whether training images are looked at, whatever was asked for; they need no labels.

    Raises:
        PruneError: One of its children; nothing expensive has been done then.
    """
    subject = find_subject(request.source, shared)
    learns = looks or request.informed or request.finetune is not None
    data = None
    if learns or request.evaluate:
        data = find_images(
            subject,
            request.data,
            request.data_dir,
            shared,
            # Where images only serve to evaluate, those without labels would serve nothing.
            labels=request.needs_labels or not learns,
            calibrates=learns,
            calibration=request.calibration,
        )
    if learns and (data is None or data.calibration is None):
        reader = "Sensitivity" if looks else _reader(request)
        raise DataError(
            f"{reader} needs training images; pass data, such as fashion-mnist-mini or "
            "a folder of images."
        )
    if request.finetune is not None and data is not None:
        device = next(subject.model.parameters()).device.type
        check_trainable(subject.model, data.calibration, request.finetune, device)
    return Job(request, subject, data, shared, watch, on_epoch)


def proved(job: Job) -> Job:
    """Leave out what cannot be cut exactly, if the adapter does not know the family.

    Raises:
        AdapterError: Then there is nothing left.
    """
    subject = job.subject
    if not subject.adapter.guesses or job.request.level.masks:
        return job
    with job.watch("prove"):
        wanted = tuple(kind for kind in ASKED if kind in (job.request.axes or ()))
        key = subject.model, subject.adapter.name, subject.part, wanted
        try:
            found = job.shared.once("proof", key, lambda: proven(subject, wanted))
        except AdapterError as error:  # what was said of the model may be why
            raise AdapterError(" ".join((str(error), *subject.warnings))) from error
        return replace(job, subject=found)


def _reader(request: Request) -> str:
    """Name what looks at training images."""
    if request.chosen.needs != "nothing":
        return f"Criterion {request.chosen.name!r}"
    for repair in (one for one in request.mending if one.needs != "nothing"):
        return f"Repair {repair.name!r}"
    return "A search" if request.scope == SEARCH else "Fine-tuning"
