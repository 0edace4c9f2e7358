"""What a pruning run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .arguments import Inputs
from .cutting.parity import Parity
from .inputs.architectures import Architecture
from .measuring.counting import Stats
from .measuring.saving import Conditions, Saving
from .planning.plan import Plan
from .recovery.gains import Repaired
from .recovery.training.history import Trained
from .weights.masking import Masking
from .weights.masks import MaskPlan
from .weights.zeros import Sparsity


@dataclass(frozen=True)
class Timing:
    """How near a model came to the latency that was asked for.

    Attributes:
        conditions: How it was timed.
        asked: The fraction of the dense model's time to remove.
        predicted: What the plan removes, by the times of the modules.
        saving: What was measured, on the small model beside the dense one.
        tries: How many models were built and timed to get there.
    """

    conditions: Conditions
    asked: float
    predicted: float
    saving: Saving
    tries: int

    @property
    def miss(self) -> float:
        """How far the time is from what was asked for, as a fraction of that."""
        return abs((1 - self.saving.removed) / (1 - self.asked) - 1)

    def after(self, tries: int) -> Timing:
        """Return the same with the number of models that were built in the end."""
        return replace(self, tries=tries)


@dataclass(frozen=True)
class Footprint:
    """How near a model came to the peak memory that was asked for.

    Attributes:
        asked: The fraction of the dense model's peak to remove.
        predicted: What the plan removes of it.
        dense, small: The peaks that were counted on both models, in bytes; see `live_peak`.
    """

    asked: float
    predicted: float
    dense: int
    small: int

    @property
    def removed(self) -> float:
        """The fraction of the dense model's peak that the small one saves."""
        return 1 - self.small / self.dense


@dataclass(frozen=True)
class Search:
    """How the shares of a budget were found.

    Attributes:
        trials: How many plans were judged.
        scopes: Scope to the divergence of its plan from the dense model, in nats.
        divergence: That of the plan that was chosen.
        base: The scope that the search started from.
        weights: Part of the model to how many times as fast as there it gives up its slices.
        images: How many training images plans were judged on.
        unseen: Whether criterion and repair have not seen these.
    """

    trials: int
    scopes: Mapping[str, float]
    divergence: float
    base: str
    weights: Mapping[str, float]
    images: int
    unseen: bool


@dataclass(frozen=True)
class Round:
    """One round of pruning.

    Attributes:
        asked: The fraction of the budget to be gone after it.
        parity: The comparison of what was cut with what was masked; None if nothing was cut.
        repaired: Layer, or axis of queries and keys, to what its repair gained.
        rebuilt: Block to what its repair gained, on images that it was not fitted on.
        recalibrated: BatchNorm to how far its running mean was off, see `Mended`.
        unrepaired: Layer that lost inputs and could not be repaired, to the reason.
        trained: How the training after it went; None without any.
        masking: The proof that what was masked is zero; None if nothing was.
        timing: How near it came to the latency that was asked for; None if none was.
        search: How the budget was shared, if that was searched for.
        footprint: How near it came to the peak memory that was asked for; None if none was.
    """

    asked: float
    parity: Parity | None
    repaired: Mapping[str, Repaired] = field(default_factory=dict)
    rebuilt: Mapping[str, Repaired] = field(default_factory=dict)
    recalibrated: Mapping[str, float] = field(default_factory=dict)
    unrepaired: Mapping[str, str] = field(default_factory=dict)
    trained: Trained | None = None
    masking: Masking | None = None
    timing: Timing | None = None
    search: Search | None = None
    footprint: Footprint | None = None

    def report(self) -> dict[str, Any]:
        """Return everything as plain data."""
        trained = self.trained.report() if self.trained else None
        plain = asdict(replace(self, trained=None))
        parity = self.parity.report() if self.parity else None
        return {**plain, "parity": parity, "trained": trained}


@dataclass(frozen=True)
class Result:
    """A pruned model, and all there is to know about how it came to be.

    Attributes:
        model: The small model, in evaluation mode.
        plan: Which slices of each axis stayed; without any axes if single weights were masked.
        before, after: What the large and the small model cost.
        rounds: What happened in each round of pruning, in order.
        recipe: Everything that determines the result, and the versions it was made with.
        seconds: Wall-clock time of each step.
        warnings: What is right but may surprise.
        part: What the part that was pruned costs, before and after; None if it is the whole model.
        architecture: How to build the large model again; None if the caller built it.
        kinds: Axis name to its kind.
        scores: Axis name to the criterion's scores of the large model's slices, (size,) float64.
        correct: Whether the large and the small model were right on each test image, (images,)
            bool; None if they were not evaluated.
        masks: Which single weights stayed; None if slices left.
        sparsity: What was counted on the masked model; None if slices left.
        example: One batch of inputs, those that the model was traced with.
        plain: Names of layers that were made plain before anything was cut, see `Subject`.
    """

    model: nn.Module
    plan: Plan
    before: Stats
    after: Stats
    rounds: tuple[Round, ...]
    recipe: Mapping[str, Any]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    part: tuple[Stats, Stats] | None = None
    architecture: Architecture | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    correct: tuple[Tensor, Tensor] | None = None
    masks: MaskPlan | None = None
    sparsity: Sparsity | None = None
    example: Inputs | None = field(default=None, repr=False)
    plain: tuple[str, ...] = ()

    @property
    def parity(self) -> Parity | None:
        """The comparison with the masked model, of the round where it is worst.

        None if single weights were masked: then nothing was cut; see `Round.masking`.
        """
        parities = [one.parity for one in self.rounds if one.parity]
        return max(parities, key=lambda parity: parity.difference / parity.scale, default=None)

    @property
    def got(self) -> float:
        """The fraction of the budget that was removed, measured on the small model or its part.

        Of a masked model, the fraction that its zeros are, or that they imply.
        """
        if self.sparsity is not None:
            return self.sparsity.removed(self.plan.by)
        timing = self.rounds[-1].timing
        if timing is not None:
            return timing.saving.removed
        footprint = self.rounds[-1].footprint
        if self.plan.by == "memory" and footprint is not None:
            return footprint.removed
        if self.plan.by == "slices":
            return self.plan.got
        sides = self.part or (self.before, self.after)
        before, after = (getattr(side, self.plan.by) for side in sides)
        return float(1 - after / before)

    def report(self) -> dict[str, Any]:
        """Return everything but the model itself as plain data."""
        return {
            "asked": self.plan.asked,
            "got": self.got,
            "before": asdict(self.before),
            "after": asdict(self.after),
            **({"part": [asdict(side) for side in self.part]} if self.part else {}),
            "parity": self.parity.report() if self.parity else None,
            "rounds": [one.report() for one in self.rounds],
            "axes": self._kept(),
            "sparsity": self.sparsity.report() if self.sparsity else None,
            "seconds": dict(self.seconds),
            "recipe": dict(self.recipe),
            "warnings": list(self.warnings),
        }

    def _kept(self) -> dict[str, dict[str, Any]]:
        """Return kind, size and what stays of every axis, or of every matrix that was masked."""
        if self.masks is not None:
            counts = {n: (mask.numel(), int(mask.sum())) for n, mask in self.masks.kept.items()}
        else:
            counts = {n: (self.plan.sizes[n], len(stays)) for n, stays in self.plan.kept.items()}
        return {
            name: {"kind": self.kinds[name], "size": size, "kept": kept}
            for name, (size, kept) in counts.items()
        }

    def save(self, directory: str | Path) -> None:
        """Write weights, plan and report to a directory.

        Raises:
            ArtifactError: It cannot be written, or holds something other than an artifact.
        """
        from .artifact import save

        save(self, directory)
