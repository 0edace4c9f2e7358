"""Grid: what to compare, in the words of `prunekit run`, as flags or as a TOML file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from ..criteria import CRITERIA
from ..criteria.base import SCOPES, Criterion, Scope
from ..errors import GridError
from ..files.reading import read_toml
from ..inputs.architectures import is_random, resolve
from ..inputs.subject import Source
from ..planning.budget import By
from ..planning.rounds import Schedule
from ..recovery import recipes
from ..recovery.recipes import Recipe
from ..registry import unknown
from ..request import Options, Request, configure
from .cell import NONE, Cell

ALL, OWN, DEFAULT = "all", "own", "default"


@dataclass(frozen=True)
class Settings:
    """What is the same in all cells; see `prune`."""

    floor: float = 0.1
    multiple: int = 8
    steps: int = 1
    schedule: str = "cubic"
    weights: str = "auto"
    data: str | None = None
    data_dir: str | None = None
    calibration: int = 512
    latency_batch: int = 1
    latency_dtype: str = "float32"
    device: str = "auto"


@dataclass(frozen=True)
class Grid:
    """Which cells to run: every combination of what is listed here.

    Attributes:
        arch: Names of architectures.
        criterion: Names of criteria, with options if any; `all` stands for every one there is.
        scope: Scopes; `own` stands for the one that the criterion declares.
        repair: Names of repairs, with options if any; a plus sign chains two.
        axes: Sets of kinds, such as "mlp+head"; `default` stands for the adapter's.
        by: Budgets.
        ratio: Fractions to remove, each in (0, 1).
        seeds: Seeds.
        finetune: Recipes to train with afterwards, by name or path; `none` does not train.
        settings: What is the same in all cells.
    """

    arch: tuple[str, ...]
    criterion: tuple[str, ...] = ("dimap",)
    scope: tuple[str, ...] = (OWN,)
    repair: tuple[str, ...] = (NONE,)
    axes: tuple[str, ...] = (DEFAULT,)
    by: tuple[str, ...] = ("params",)
    ratio: tuple[float, ...] = (0.5,)
    seeds: tuple[int, ...] = (0,)
    finetune: tuple[str, ...] = (NONE,)
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything is.

        Raises:
            PruneError: A name is unknown or listed twice, a number out of range, or a list
                empty.
        """
        for name, values in self._lists().items():
            if not values:
                raise GridError(f"The grid lists no {name}; name at least one.")
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise GridError(f"The grid lists {name} {twice[0]!r} twice; name it once.")
        for name in self.scope:
            if name not in (OWN, *SCOPES):
                raise GridError(unknown("scope", name, (OWN, *SCOPES)))
        for arch in self.arch:
            resolve(arch)
        for cell in self._product(dict.fromkeys(self.arch, ())):
            self.request(cell)  # refuses what `prunekit run` does

    def _lists(self) -> dict[str, tuple[Any, ...]]:
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name != "settings"
        }

    @classmethod
    def read(cls, path: Path, flags: Mapping[str, Any]) -> Grid:
        """Read a TOML file with the words of this class and of `Settings`; flags win.

        Raises:
            GridError: It cannot be read, says something unknown, or a value has the wrong type.
        """
        written = read_toml(path, "grid", GridError)
        return cls.of({**written, **flags}, str(path))

    @classmethod
    def of(cls, words: Mapping[str, Any], source: str = "the grid") -> Grid:
        """Build a grid from plain data: lists, or single values, by the names of the fields.

        Args:
            words: `seeds` may be a number, of seeds counted from 0.
            source: Where the words are from, for messages.

        Raises:
            PruneError: A word is unknown, or a value cannot be.
        """
        single = {entry.name: type(entry.default) for entry in fields(Settings)}
        listed = {entry.name for entry in fields(cls)} - {"settings"}
        for word in words:
            if word not in listed | set(single):
                raise GridError(f"In {source}: {unknown('word', word, [*listed, *single])}")
        if "arch" not in words:
            raise GridError("The grid names no architecture; give --arch, such as swin_micro.")
        settings = {word: value for word, value in words.items() if word in single}
        for word, value in settings.items():
            settings[word] = _single(word, value, single[word])
        lists = {word: _list(word, words[word]) for word in words if word in listed}
        return cls(**lists, settings=Settings(**settings))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data that `of` understands."""
        lists = {name: list(values) for name, values in self._lists().items()}
        return {**lists, **asdict(self.settings)}

    def criteria(self) -> tuple[str, ...]:
        """Return the names of the criteria, `all` spelled out."""
        named = [CRITERIA.names() if name == ALL else [name] for name in self.criterion]
        return tuple(dict.fromkeys(itertools.chain(*named)))

    def criterion_of(self, name: str) -> Criterion:
        """Return a criterion with its options and the grid's first seed."""
        return configure(name, self.seeds[0])

    def recipe_of(self, name: str) -> Recipe | None:
        """Return a recipe, or None for `none`."""
        return None if name == NONE else recipes.find(name)

    def options(self, cell: Cell) -> Options:
        """Return what `prune` is told for a cell besides model, criterion and ratio."""
        settings = self.settings
        timing: Options = {
            "latency_batch": settings.latency_batch,
            "latency_dtype": settings.latency_dtype,
        }
        return {
            **(timing if cell.by == "latency" else Options()),
            "by": cast(By, cell.by),
            "scope": cast(Scope, cell.scope),
            "repair": cell.repair,
            "axes": cell.axes or None,
            "floor": settings.floor,
            "multiple": settings.multiple,
            "steps": settings.steps,
            "schedule": cast(Schedule, settings.schedule),
            "finetune": self.recipe_of(cell.finetune),
            "weights": settings.weights,
            "data": settings.data,
            "data_dir": settings.data_dir,
            "calibration": settings.calibration,
            "evaluate": True,
            "timed": False,  # see `timing`
            "device": settings.device,
            "seed": cell.seed,
        }

    def request(self, cell: Cell) -> Request:
        """Return what a cell asks for, checked."""
        options = self.options(cell)
        return Request(model=cell.arch, criterion=cell.criterion, ratio=cell.ratio, **options)

    def source(self, arch: str, seed: int) -> Source:
        """Return where the model of a cell is from."""
        return Source(
            model=arch, weights=self.settings.weights, device=self.settings.device, seed=seed
        )

    def is_informed(self, cell: Cell) -> bool:
        """Whether criterion or repair of a cell look at images."""
        return self.request(cell).informed

    @property
    def learns(self) -> bool:
        """Whether any cell looks at training images."""
        cells = self._product(dict.fromkeys(self.arch, ()))
        return any(cell.finetune != NONE or self.is_informed(cell) for cell in cells)

    def is_seeded(self, cell: Cell) -> bool:
        """Whether the seed of a cell makes a difference to it."""
        criterion = self.criterion_of(cell.criterion)
        drawn = "seed" in criterion.defaults and "seed=" not in cell.criterion
        trained = cell.finetune != NONE
        return (
            drawn
            or self.is_informed(cell)
            or trained
            or is_random(cell.arch, self.settings.weights)
        )

    def cells(self, default_kinds: Mapping[str, Sequence[str]]) -> list[Cell]:
        """Return all cells; those that have much in common follow each other.

        Where the seed makes no difference, the first one stands for all.

        Args:
            default_kinds: Architecture to the kinds of axes that shrink by default.
        """
        found = []
        for cell in self._product(default_kinds):
            found.append(cell if self.is_seeded(cell) else replace(cell, seed=self.seeds[0]))
        return list(dict.fromkeys(found))

    def _product(self, default_kinds: Mapping[str, Sequence[str]]) -> Iterator[Cell]:
        for finetune, arch, axes, seed, criterion, scope, repair, by, ratio in itertools.product(
            self.finetune, self.arch, self.axes, self.seeds, self._by_need(), self.scope,
            self.repair, self.by, self.ratio,
        ):  # fmt: skip
            kinds = default_kinds[arch] if axes == DEFAULT else axes.split("+")
            own = self.criterion_of(criterion).scope if scope == OWN else scope
            yield Cell(arch, criterion, own, repair, tuple(kinds), by, ratio, seed, finetune)

    def _by_need(self) -> list[str]:
        """Return the criteria, those that need the same statistics together."""
        needs = [self.criterion_of(name).needs for name in self.criteria()]
        return sorted(self.criteria(), key=lambda name: needs.index(self.criterion_of(name).needs))


def _list(word: str, value: Any) -> tuple[Any, ...]:
    """Return the values of a word that may have several, each of the right type."""
    if word == "seeds" and type(value) is int:
        if value < 1:
            raise GridError(f"The grid asks for {value} seeds; expected 1 or more.")
        return tuple(range(value))
    values = list(value) if isinstance(value, list | tuple) else [value]
    wanted = {"ratio": float, "seeds": int}.get(word, str)
    if wanted is float:
        values = [float(one) if type(one) is int else one for one in values]
    for one in values:
        if type(one) is not wanted:
            raise GridError(
                f"The grid says {word} = {one!r}, which is {type(one).__name__}; expected "
                f"{wanted.__name__}."
            )
    return tuple(values)


def _single(word: str, value: Any, wanted: type) -> Any:
    """Return the value of a word that has one, of the right type."""
    wanted = str if wanted is type(None) else wanted
    if wanted is float and type(value) is int:
        value = float(value)
    if value is not None and type(value) is not wanted:
        raise GridError(
            f"The grid says {word} = {value!r}, which is {type(value).__name__}; expected one "
            f"{wanted.__name__}."
        )
    return value
