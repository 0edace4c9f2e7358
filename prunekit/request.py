"""Request: what was asked for, as one value that is checked in one place."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from .adapters.base import Adapter
from .arguments import Inputs
from .budgets import check_budgets
from .criteria import CRITERIA
from .criteria.base import SCOPES, Criterion, Scope
from .errors import ArtifactError, BudgetError, CriterionError, DataError, RequestError
from .expected import check_types
from .files.sensitivity import NAME, SensitivityFile, read_sensitivity
from .inputs.subject import Source
from .measuring.saving import Conditions
from .planning.budget import BYS, Budget, By
from .planning.plan import check_limits
from .planning.rounds import SCHEDULES, Schedule, ratios
from .plugin import configured
from .recovery.recipes import Recipe, settings_of
from .recovery.training.setting import check_installed
from .registry import unknown
from .repairs.base import Repair
from .repairs.chain import Spec, chained, named, options_of
from .weights.granularity import Granularity, check_applies

DEFAULT_RATIO = 0.5
SEARCH, SENSITIVITY = "search", "sensitivity:"  # scopes beside those of criteria
TRIALS = 24
MOST_STEPS = 1000
SEEDS = 2**63  # torch and NumPy take any below


class Options(TypedDict, total=False):
    """The keywords of `prune`, which explains them; the defaults are those of `Request`."""

    granularity: str
    by: By
    also: Mapping[By, float]
    target_ms: float | None
    scope: str | None
    trials: int | None
    repair: Spec
    axes: Sequence[str] | None
    include: Sequence[str]
    exclude: Sequence[str]
    at: str
    floor: float
    multiple: int
    uniform: bool
    steps: int
    schedule: Schedule
    finetune: Recipe | None
    adapter: Adapter | str | None
    example_input: Inputs | None
    img_size: int | tuple[int, int] | None
    in_chans: int | None
    num_classes: int | None
    weights: str
    data: Any
    data_dir: str | Path | None
    calibration: int
    evaluate: bool
    timed: bool | None
    latency_batch: int
    latency_dtype: str
    compile: bool
    device: str
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What was asked for, in the words of `prune`, which explains each.

    Nothing that can be refused without looking at the model is let through.
    """

    model: nn.Module | str
    criterion: str | Criterion = "dimap"
    ratio: float | None = None
    granularity: str = "slice"
    by: By = "params"
    also: Mapping[By, float] = field(default_factory=dict)
    target_ms: float | None = None
    scope: str | None = None
    trials: int | None = None
    repair: Spec = "none"
    axes: Sequence[str] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    at: str = ""
    floor: float = 0.1
    multiple: int = 8
    uniform: bool = False
    steps: int = 1
    schedule: Schedule = "cubic"
    finetune: Recipe | None = None
    adapter: Adapter | str | None = None
    example_input: Inputs | None = None
    img_size: int | tuple[int, int] | None = None
    in_chans: int | None = None
    num_classes: int | None = None
    weights: str = "auto"
    data: Any = None
    data_dir: str | Path | None = None
    calibration: int = 512
    evaluate: bool = False
    timed: bool | None = None
    latency_batch: int = 1
    latency_dtype: str = "float32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            PruneError: One of its children, in a sentence that says what to do.
        """
        check_types(self)
        _check_numbers(self)
        for noun, given, known in (
            ("budget", self.by, BYS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if given not in known:
                raise BudgetError(unknown(noun, given, known))
        check_limits(self.floor, self.multiple)
        self.chosen, self.mending  # noqa: B018  (looks the names up)
        Budget(self.fraction, self.by, total=0)  # checks the ratio
        self._check_scope()
        check_budgets(self)
        if self.finetune is not None:
            check_installed()
        if self.level.masks:
            asked = None if self.scope is None else self.competes_in
            check_applies(self.level, self.chosen, self.mending, self.ratio, asked, self.steps)
            self._check_no_part()
            self._check_no_limits()

    def _check_scope(self) -> None:
        """Refuse what is no scope, or cannot go with it."""
        if self.trials is not None and self.scope != SEARCH:
            raise BudgetError(
                f"trials is {self.trials}, but nothing is searched for; pass scope 'search' "
                "(--scope search), or leave it out."
            )
        if self.scope is None or self.scope in SCOPES:
            return
        if self.scope != SEARCH and not self.scope.startswith(SENSITIVITY):
            known = (*SCOPES, SEARCH, f"{SENSITIVITY}FILE")
            raise CriterionError(unknown("scope", self.scope, known))
        if self.level.masks or self.steps > 1:
            raise BudgetError(
                f"Scope {self.scope!r} shares the budget among axes once; leave granularity and "
                "steps out, or choose among axis, kind and model."
            )
        if self.trials is not None and self.trials < 1:
            raise BudgetError(f"trials is {self.trials}; expected 1 or more.")
        self.measured  # noqa: B018  (reads the file)

    @cached_property
    def measured(self) -> SensitivityFile | None:
        """What was measured of every axis, if the budget is shared by that.

        Raises:
            ArtifactError: The file is missing or damaged, or the measurement was cut off.
        """
        if self.scope is None or not self.scope.startswith(SENSITIVITY):
            return None
        named = self.scope.removeprefix(SENSITIVITY)
        if not named:
            raise BudgetError(f"Scope {self.scope!r} names no file; add one after the colon.")
        place = Path(named)
        place = place / NAME if place.is_dir() else place
        again = "make it with prunekit sensitivity --out"
        found = read_sensitivity(place, again)
        if found["recipe"] is None:
            raise ArtifactError(f"The measurement in {place} was cut off; repeat it to finish it.")
        return found

    def _check_no_part(self) -> None:
        """Refuse to count a part where single weights leave: patterns choose them by name."""
        if self.at:
            raise RequestError(
                f"at is {self.at!r}, but single weights (granularity {self.level.text!r}) are "
                f"counted in the whole model; leave at out, and pass include=['{self.at}.*']."
            )

    def _check_no_limits(self) -> None:
        """Refuse limits of axes where single weights leave, rather than pass them over."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in ("floor", "multiple", "uniform") and value != entry.default:
                raise BudgetError(
                    f"{entry.name} is {value}, but single weights (granularity "
                    f"{self.level.text!r}) have none; leave {entry.name} out, or prune slices."
                )

    @cached_property
    def chosen(self) -> Criterion:
        """The criterion, with its options; one that takes a seed gets the run's."""
        return configure(self.criterion, self.seed)

    @cached_property
    def mending(self) -> tuple[Repair, ...]:
        """The repairs, one after the other, with their options."""
        return chained(self.repair)

    @cached_property
    def level(self) -> Granularity:
        """What leaves: slices, or single weights."""
        return Granularity.parse(self.granularity)

    @property
    def fraction(self) -> float:
        """The fraction to remove, the default filled in."""
        return DEFAULT_RATIO if self.ratio is None else self.ratio

    @property
    def competes_in(self) -> Scope:
        """The scope, the criterion's own filled in; of axes that share a budget, the model."""
        if self.scope in SCOPES:
            return self.scope
        if self.scope is not None:
            return "model"
        of_weights = self.chosen.weight_scope if self.level.masks else None
        return of_weights or self.chosen.scope

    @property
    def most_trials(self) -> int:
        """How many plans a search may judge, the default filled in."""
        return TRIALS if self.trials is None else self.trials

    @property
    def conditions(self) -> Conditions:
        """How models are timed, if latency is what counts."""
        return Conditions(self.latency_batch, self.latency_dtype, self.compile)

    @property
    def targets(self) -> list[float]:
        """The fraction to be gone after each round."""
        return ratios(self.fraction, self.steps, self.schedule)

    @property
    def informed(self) -> bool:
        """Whether the criterion or the repair looks at images."""
        needs = {self.chosen.needs, *(repair.needs for repair in self.mending)}
        return needs != {"nothing"} or self.scope == SEARCH

    @property
    def needs_labels(self) -> bool:
        """Whether the criterion or the training looks at labels."""
        return self.finetune is not None or self.chosen.needs_labels

    @property
    def source(self) -> Source:
        """Where the model is from."""
        return Source(**{entry.name: getattr(self, entry.name) for entry in fields(Source)})

    def recipe(self) -> dict[str, Any]:
        """Return what determines the result, as plain data for the report."""
        slices, patterned = not self.level.masks, self.level.pattern is not None
        return {
            "criterion": self.chosen.name,
            "options": dict(self.chosen.options),
            "granularity": self.level.text,
            "scope": None if patterned else self.scope or self.competes_in,
            **({"trials": self.most_trials} if self.scope == SEARCH else {}),
            "repair": named(self.mending),
            "repair_options": options_of(self.mending),
            "include": list(self.include),
            "exclude": list(self.exclude),
            "ratio": None if patterned else self.fraction,
            "by": self.by,
            "floor": self.floor if slices else None,
            "multiple": self.multiple if slices else None,
            **({"uniform": True} if self.uniform else {}),
            **({"latency": asdict(self.conditions)} if self.by == "latency" else {}),
            **({"also": dict(self.also)} if self.also else {}),
            "steps": self.steps,
            "schedule": self.schedule if self.steps > 1 else None,
            "finetune": settings_of(self.finetune) if self.finetune else None,
            "seed": self.seed,
        }


def configure(criterion: str | Criterion, seed: int) -> Criterion:
    """Find a criterion and give it its options; one that takes a seed gets the run's.

    Args:
        criterion: A Criterion, or a name with options: "magnitude", "magnitude:p=1".
        seed: For criteria with a `seed` option that was not given.

    Raises:
        RegistryError: Nothing has that name.
        CriterionError: It has no such option, or the value is not understood.
    """
    found = configured(CRITERIA, criterion)
    if "seed" in found.defaults and "seed" not in found.options:
        found = found.configure(seed=seed)
    return found


def _check_numbers(request: Request) -> None:
    if not 1 <= request.steps <= MOST_STEPS:
        raise BudgetError(
            f"Asked for {request.steps} steps; expected 1 or more, and at most {MOST_STEPS}."
        )
    if request.calibration < 1:
        raise DataError(f"Asked for {request.calibration} calibration images; expected 1 or more.")
    if not 0 <= request.seed < SEEDS:
        raise RequestError(f"The seed is {request.seed}; expected a number from 0 to 2^63 - 1.")
    sizes = request.img_size if isinstance(request.img_size, tuple | list) else [request.img_size]
    if len(sizes) > 2 or any(size is not None and not _is_size(size) for size in sizes):
        raise RequestError(
            f"img_size is {request.img_size}; expected one or two numbers of pixels, 1 or more."
        )
    for name, least in (("in_chans", 1), ("num_classes", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise RequestError(f"{name} is {value}; expected {least} or more.")


def _is_size(size: object) -> bool:
    return isinstance(size, numbers.Integral) and 0 < int(size) < math.inf
