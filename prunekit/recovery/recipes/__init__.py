"""Recipe: every setting of a training run, and the named ones in the TOML files beside this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...errors import TrainingError
from ...files.reading import read_toml
from ...registry import unknown

HERE = Path(__file__).parent
PRECISIONS = ("no", "fp16", "bf16")
DEFAULT = "quick"
MOST = 1000.0  # what is larger ends in weights that are not numbers


def _setting(default: Any, help: str) -> Any:
    """Return a dataclass field that carries its own explanation, for the command line."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Every field is also a flag of `prunekit finetune`, and its `help` metadata says what it means.
    """

    epochs: int = _setting(10, "passes over the training images")
    batch_size: int = _setting(128, "images per update, over all devices together")
    accumulate: int = _setting(1, "parts to cut a batch into, to save memory")
    optimizer: str = _setting("adamw", "any optimizer of timm's factory")
    lr: float = _setting(1e-3, "learning rate after the warm-up")
    min_lr: float = _setting(1e-5, "learning rate at the end")
    warmup_lr: float = _setting(1e-5, "learning rate at the start of the warm-up")
    warmup: float = _setting(0.1, "fraction of all updates that warm up, linearly")
    schedule: str = _setting("cosine", "any scheduler of timm's factory that needs no milestones")
    weight_decay: float = _setting(0.05, "weight decay, of matrices only")
    clip_grad: float = _setting(1.0, "largest norm of the gradient; 0 does not clip")
    label_smoothing: float = _setting(0.1, "probability spread over all classes")
    mixup: float = _setting(0.0, "alpha of mixup; 0 is off")
    cutmix: float = _setting(0.0, "alpha of cutmix; 0 is off")
    augment: str = _setting(
        "", "timm's name of a policy, such as rand-m9-mstd0.5-inc1; empty: none"
    )
    crop: float = _setting(0.08, "smallest fraction of an image's area that a crop keeps")
    flip: float = _setting(0.5, "probability of mirroring an image")
    color_jitter: float = _setting(
        0.0, "strength of colour jitter; timm leaves it to a policy if any"
    )
    random_erasing: float = _setting(0.0, "probability of erasing a rectangle")
    ema_decay: float = _setting(0.0, "decay of the weights' moving average; 0 is off")
    precision: str = _setting("no", "mixed precision: no, fp16 or bf16")
    distill: bool = _setting(False, "learn from the dense model too")
    temperature: float = _setting(2.0, "softens both models' outputs to be compared")
    distill_weight: float = _setting(
        0.5, "the dense model's share of the loss; labels have the rest"
    )
    feature_weight: float = _setting(0.0, "weight of matching features, where widths agree")
    validation: float = _setting(0.1, "fraction of the training images that choose the best epoch")

    def __post_init__(self) -> None:
        """Refuse what cannot be right.

        Raises:
            TrainingError: A setting has the wrong type, or lies outside its range.
        """
        for entry in fields(self):
            _check_type(entry.name, getattr(self, entry.name), type(entry.default))
        for names, right, expected in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not right(value):
                    raise TrainingError(f"The recipe says {name} = {value!r}; expected {expected}.")

    def with_(self, **overrides: Any) -> Recipe:
        """Return this recipe with some settings changed; None leaves one as it is.

        Raises:
            TrainingError: There is no such setting, or its value cannot be.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        _check_names(given, "these settings")
        return replace(self, **{name: _widened(name, value) for name, value in given.items()})


def names() -> list[str]:
    """Return the names of all recipes that come with prunekit."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def find(name: str | Path) -> Recipe:
    """Return a recipe.

    Args:
        name: One of `names()`, or the path of a TOML file with fields of `Recipe` in it.

    Raises:
        TrainingError: Nothing is called so, or the file is not a recipe.
    """
    path = HERE / f"{name}.toml" if str(name) in names() else Path(name)
    if path.suffix != ".toml":
        known = "a recipe of your own is named by its path, which ends in .toml."
        raise TrainingError(
            unknown("recipe", str(name), names(), f"known: {', '.join(names())}; {known}")
        )
    return from_settings(read_toml(path, "recipe", TrainingError), str(path))


def from_settings(settings: Mapping[str, Any], source: str) -> Recipe:
    """Build a recipe from plain data, such as a report's.

    Raises:
        TrainingError: There is no such setting, or its value cannot be.
    """
    _check_names(settings, source)
    return Recipe(**{name: _widened(name, value) for name, value in settings.items()})


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain data."""
    return asdict(recipe)


def _check_names(settings: Mapping[str, Any], source: str) -> None:
    known = [entry.name for entry in fields(Recipe)]
    for name in settings:
        if name not in known:
            raise TrainingError(f"In {source}: {unknown('setting', name, known)}")


def _widened(name: str, value: Any) -> Any:
    """TOML and people write 1 where 1.0 is meant."""
    wanted = next(type(entry.default) for entry in fields(Recipe) if entry.name == name)
    return float(value) if wanted is float and type(value) is int else value


def _check_type(name: str, value: Any, wanted: type) -> None:
    if type(value) is not wanted:
        raise TrainingError(
            f"The recipe says {name} = {value!r}, which is {type(value).__name__}; expected "
            f"{wanted.__name__}."
        )


_Right = Callable[[Any], bool]
_RANGES: tuple[tuple[tuple[str, ...], _Right, str], ...] = (
    (("epochs", "batch_size", "accumulate"), lambda v: v >= 1, "1 or more"),
    (("lr", "temperature"), lambda v: 0 < v <= MOST, f"a number above 0, up to {MOST:g}"),
    (
        (
            "min_lr",
            "warmup_lr",
            "weight_decay",
            "clip_grad",
            "mixup",
            "cutmix",
            "color_jitter",
            "feature_weight",
        ),
        lambda v: 0 <= v <= MOST,
        f"a number from 0 to {MOST:g}",
    ),
    (("flip", "random_erasing", "distill_weight"), lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    (
        ("warmup", "label_smoothing", "ema_decay"),
        lambda v: 0 <= v < 1,
        "a number from 0 to below 1",
    ),
    (("crop",), lambda v: 0 < v <= 1, "a number above 0 and up to 1"),
    (("validation",), lambda v: 0 < v < 1, "a number between 0 and 1"),
    (("precision",), lambda v: v in PRECISIONS, "no, fp16 or bf16"),
)
