"""Weights in several files, or in a folder as the Hub and transformers lay it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen, MinLen
from pydantic import with_config
from typing_extensions import TypedDict

from ..errors import ArtifactError, WeightsError
from ..files.reading import LARGEST, parse
from ..files.stored import PLAN

INDEX = ".index.json"
NAMED = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
Name = Annotated[str, MaxLen(1000)]


@with_config({"extra": "allow"})
class Index(TypedDict):
    """Which file holds which tensor."""

    weight_map: dict[Name, Name]


@with_config({"extra": "allow"})
class Config(TypedDict):
    """What transformers writes beside weights."""

    model_type: Name
    architectures: Annotated[list[Name], MinLen(1)]


def parts_of(path: Path) -> list[Path]:
    """Return the files that hold the weights; none if the path is such a file itself.

    Args:
        path: A folder with one usual name in it, or with numbered parts, or an index of several
            files, or anything else.

    Raises:
        WeightsError: An index cannot be read, or names what is not beside it; or a numbered part
            is missing; or it is a pruned model.
    """
    try:
        if path.name.endswith(INDEX) and path.is_file():
            return _indexed(path)
        if not path.is_dir():
            return []
        indices = sorted(path.glob(f"*{INDEX}"))
    except (OSError, ValueError):  # a name that is too long; whoever opens it says so
        return []
    if (path / PLAN).is_file():
        raise WeightsError(
            f"{str(path)!r} is a model that prunekit pruned, and its weights fit no architecture "
            f"as a whole; pass it as the architecture, --arch {path}."
        )
    if indices:
        return _indexed(indices[0])
    named = [path / name for name in NAMED if (path / name).is_file()]
    return named[:1] or _numbered(path)


def transformers_model(path: Path) -> str | None:
    """Return the class of transformers that a folder, or the folder of a file, says it holds."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    try:
        with config.open("rb") as file:
            found = parse(file.read(LARGEST), Config, str(config))
    except (OSError, ArtifactError):  # it is no such folder
        return None
    return found["architectures"][0]


def _numbered(folder: Path) -> list[Path]:
    """Return the parts in a folder whose names say that they are 1 of 3, 2 of 3 and so on.

    Raises:
        WeightsError: One of them is missing, or they belong to several models.
    """
    names = (path.name for path in folder.glob("*-of-*.safetensors"))
    found = [match for name in names if (match := PART.fullmatch(name))]
    models = sorted({(match["name"], match["count"]) for match in found})
    if not models:
        return []
    if len(models) > 1:
        first, second = (f"{name}-00001-of-{count}.safetensors" for name, count in models[:2])
        raise WeightsError(
            f"{str(folder)!r} holds parts of several models, such as {first!r} and {second!r}; "
            "leave those of one in it."
        )
    name, count = models[0]
    parts = [f"{name}-{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
    missing = [part for part in parts if not (folder / part).is_file()]
    if missing:
        raise WeightsError(
            f"{str(folder)!r} holds {len(parts) - len(missing)} of {len(parts)} parts, and "
            f"{missing[0]!r} is missing; download all parts."
        )
    return [folder / part for part in parts]


def _indexed(path: Path) -> list[Path]:
    """Return the files that an index names."""
    try:
        with path.open("rb") as file:
            names = sorted(set(parse(file.read(LARGEST), Index, str(path))["weight_map"].values()))
    except (OSError, ArtifactError) as error:
        raise WeightsError(
            f"{str(path)!r} is no index of weights, a JSON file whose weight_map names a file for "
            "every tensor; download it again."
        ) from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise WeightsError(
            f"{str(path)!r} names {outside[0][:80]!a}, which is no file beside it, as parts "
            "of weights are; do not trust it."
        )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        raise WeightsError(
            f"{str(path)!r} names {missing[0] if missing else 'no files'!r}, which is not beside "
            "it; download all parts."
        )
    return [path.parent / name for name in names]
