"""What a run needs to go on, written so that being killed at any moment loses nothing.

A checkpoint is tensors and JSON, never a pickle: whoever can write to its directory can spoil the
run, and no more. There is no state of random generators in it, since there is none to keep; see
`chance`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import JsonValue, with_config
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from ...errors import ArtifactError, TrainingError
from ...files.reading import parse, read_bytes, reason, typed
from ...files.replacing import flush
from ...files.stored import digest, digest_of, write_json
from ...files.tree import pack, unpack
from .history import Epoch
from .setting import together

PREFIX, PARTIAL = "checkpoint-", ".partial"
STATE, TENSORS = "state.json", "state.safetensors"
NAME = re.compile(rf"{PREFIX}(\d{{1,9}})")
LARGEST_STATE = 256 * 2**20  # bytes of STATE; an optimizer has a few numbers a parameter

Count = Annotated[int, Ge(0), Le(2**53)]
Percent = Annotated[float, Ge(-1), Le(100)]  # -1 before anything is validated


@dataclass
class Progress:
    """How far a run has come, and the best weights so far.

    Attributes:
        epoch: Whole epochs done.
        done: Updates of the epoch that is under way.
        loss: Their sum of losses.
        seconds: Time they took.
        history: What was measured after each epoch.
        best_epoch, best_top1, best: Which weights would be kept now, on the CPU.
        start_top1: What went in.
    """

    epoch: int = 0
    done: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_top1: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)
    start_top1: float = -1.0

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data and tensors."""
        return {**vars(self), "history": [asdict(entry) for entry in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ArtifactError: It is something else.
        """
        plain = {key: value for key, value in state.items() if key not in ("best", "history")}
        vars(self).update(typed(plain, _Reached, "The progress of the run"))
        self.history = typed(state["history"], list[Epoch], "The history of the run")
        self.best = dict(state["best"])


@with_config({"extra": "forbid"})
class _Reached(TypedDict):
    epoch: Count
    done: Count
    loss: float
    seconds: Annotated[float, Ge(0)]
    best_epoch: Count
    best_top1: Percent
    start_top1: Percent


@with_config({"extra": "forbid"})
class _StateFile(TypedDict):
    format: Literal[1]
    state: JsonValue
    tensors_sha256: Annotated[str, MaxLen(64)]
    sha256: Annotated[str, MaxLen(64)]


class Checkpoints:
    """The checkpoints in a directory, of which the newest whole one counts.

    Each is written under another name and renamed when it is whole, and the one before it is
    removed only then. The best weights travel in it, so that all of it is from one moment.
    """

    def __init__(self, directory: Path, accelerator: Any, parts: Mapping[str, Any]):
        """Say what a checkpoint is of.

        Args:
            directory: Where checkpoints go.
            accelerator: This process's, among those that train together.
            parts: What has a state, the same in all processes; each has `state_dict` and
                `load_state_dict`.
        """
        self.directory, self.accelerator, self.parts = directory, accelerator, parts

    def save(self) -> None:
        """Write a checkpoint; all processes call it, and the main one writes.

        Raises:
            TrainingError: It cannot be written.
        """
        together(self.accelerator, self._save)

    def load(self) -> None:
        """Load the newest whole checkpoint, if there is one.

        Raises:
            TrainingError: It is damaged, or of another run or version.
        """
        found = whole(self.directory)
        if not found:
            return
        newest = max(found, key=_number)
        try:
            state = _read(newest)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (ArtifactError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError,
                OSError) as error:  # fmt: skip
            raise TrainingError(
                f"The checkpoint {str(newest)!r} cannot be gone on from ({_in_a_line(error)}); "
                f"delete {str(self.directory)!r} and start again."
            ) from error

    def _save(self) -> None:
        number = max(map(_number, whole(self.directory)), default=0) + 1
        target = self.directory / f"{PREFIX}{number:06d}"
        partial = target.with_name(target.name + PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write(partial, {name: part.state_dict() for name, part in self.parts.items()})
            flush(partial)
            os.rename(partial, target)
            for other in _ours(self.directory):
                if other != target:
                    shutil.rmtree(other)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"Cannot write a checkpoint to {str(self.directory)!r} ({reason(error)}); make "
                "room, then add --resume to go on from the one before it."
            ) from error
        except TypeError as error:
            raise TrainingError(
                f"The state of this optimizer cannot be kept in a checkpoint ({error}); give the "
                "recipe another optimizer."
            ) from error


def whole(directory: Path) -> list[Path]:
    """Return the checkpoints that are not half-written."""
    return [path for path in _ours(directory) if path.suffix != PARTIAL]


def clear(directory: Path) -> None:
    """Remove all checkpoints, whole or not."""
    for path in _ours(directory):
        shutil.rmtree(path)


def _ours(directory: Path) -> list[Path]:
    paths = directory.glob(f"{PREFIX}*")
    return [path for path in paths if NAME.fullmatch(path.name.removesuffix(PARTIAL))]


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _write(directory: Path, state: object) -> None:
    plain, tensors = pack(state)
    save_file(tensors, directory / TENSORS)
    data = {"format": 1, "state": plain, "tensors_sha256": digest(directory / TENSORS)}
    write_json(directory / STATE, {**data, "sha256": digest_of(data)})


def _read(directory: Path) -> Any:
    """Return what `_write` wrote.

    Raises:
        ArtifactError: It is not what was written, or was written by another version.
        OSError: A file is missing or cannot be read.
        ValueError: There is something in it that `pack` does not make.
    """
    if not (directory / STATE).is_file():
        raise ArtifactError(
            "it is of another version of prunekit, or of another program, and may hold code"
        )
    content = read_bytes(directory / STATE, LARGEST_STATE)
    found = parse(content, _StateFile, STATE, advice="it is damaged")
    plain = json.loads(content)  # not `found`, which is the same but for whole numbers
    if plain.pop("sha256") != digest_of(plain):
        raise ArtifactError(f"{STATE} is damaged: its digest does not match")
    with safe_open(directory / TENSORS, "pt"):  # refuses a size that its header does not explain
        tensors = (directory / TENSORS).read_bytes()
    if hashlib.sha256(tensors).hexdigest() != found["tensors_sha256"]:
        raise ArtifactError(f"{TENSORS} is damaged: its digest does not match")
    return unpack(plain["state"], load(tensors))


def _in_a_line(error: Exception) -> str:
    text = reason(error).partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text[:200]
