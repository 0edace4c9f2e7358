"""Store: one directory per cell, written whole or not at all, and never by two at once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from .cell import Cell, Cost, Record

CELL, ARRAYS, GRID, TIMING = "cell.json", "arrays.npz", "grid.json", "timing.json"


class Store:
    """The cells of a comparison, on disk.

    A cell appears under its key by one rename, so that it is there or not, wherever a process
    is killed. Who works on a cell holds a lock on a file; the system takes it back from a
    process that dies.
    """

    def __init__(self, root: Path):
        self.root = root
        self._cells, self._locks = root / "cells", root / "locks"

    def prepare(self) -> None:
        """Make the directories, and clear away what killed processes left unfinished.

        Raises:
            ArtifactError: They cannot be made.
        """
        try:
            for directory in (self._cells, self._locks):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"{self.root} cannot be written ({error.strerror}); choose another --out."
            ) from error
        for partial in self._cells.glob(".*"):
            with self.claim(partial.name[1:].partition("-")[0], wait=False) as mine:
                if mine:
                    shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def claim(self, key: str, *, wait: bool) -> Iterator[bool]:
        """Keep other processes of this machine from a cell; yields whether that worked.

        Args:
            key: The cell's.
            wait: Whether to wait until whoever has it is done with it.
        """
        with (self._locks / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def has(self, key: str) -> bool:
        """Whether a cell is there."""
        return (self._cells / key).is_dir()

    def write(self, key: str, record: Record, determined_by: Mapping[str, Any]) -> None:
        """Add a cell; if it is there already, that one stays.

        Raises:
            ArtifactError: It cannot be written; then nothing of it is left.
        """
        partial = self._cells / f".{key}-{uuid4().hex}"
        try:
            partial.mkdir()
            plain = {**_plain(record), "determined_by": determined_by}
            _write(partial / CELL, json.dumps(plain, indent=1).encode())
            with (partial / ARRAYS).open("wb") as file:
                np.savez_compressed(file, **_arrays(record))  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._cells / key)
        except OSError as error:
            if not self.has(key):
                raise ArtifactError(
                    f"The cell {key} cannot be written to {self.root} ({error.strerror}); make "
                    "room there, and run the same command again."
                ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, key: str) -> Record:
        """Return a cell.

        Raises:
            ArtifactError: It is not there, or not readable.
        """
        home = self._cells / key
        try:
            data = json.loads((home / CELL).read_text("utf-8"))
            with np.load(home / ARRAYS, allow_pickle=False) as arrays:
                return _record(data, dict(arrays))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"The cell {home} is not readable ({type(error).__name__}: {error}); remove it, "
                "and the same command will run it again."
            ) from error

    def write_grid(self, data: Mapping[str, Any]) -> None:
        """Keep what was asked for, so that the report can be made again."""
        self._replace(GRID, data)

    def read_grid(self) -> dict[str, Any]:
        """Return what `write_grid` kept.

        Raises:
            ArtifactError: There is none, or it is not readable.
        """
        try:
            found: dict[str, Any] = json.loads((self.root / GRID).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.root} is not a comparison: it has no readable {GRID}; name the directory "
                "that was given as --out."
            ) from error
        return found

    def write_timing(self, data: Mapping[str, Any]) -> None:
        """Keep how fast models are."""
        self._replace(TIMING, data)

    def read_timing(self) -> dict[str, Any]:
        """Return what `write_timing` kept, or that nothing is known.

        Raises:
            ArtifactError: It is not readable.
        """
        path = self.root / TIMING
        if not path.is_file():
            return {"where": None, "shapes": {}}
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not readable ({error}); remove it, and the same command will time the "
                "models again."
            ) from error
        return found

    def _replace(self, name: str, data: Mapping[str, Any]) -> None:
        partial = self.root / f".{name}-{uuid4().hex}"
        _write(partial, json.dumps(data, indent=1).encode())
        partial.replace(self.root / name)


def _plain(record: Record) -> dict[str, Any]:
    return {
        "cell": record.cell.to_json(),
        "seeded": record.seeded,
        "problem": record.problem,
        "cost": asdict(record.cost) if record.cost else None,
        "seconds": record.seconds,
        "report": record.report,
    }


def _arrays(record: Record) -> dict[str, NDArray[Any]]:
    return {
        "correct": record.correct,
        "dense_correct": record.dense_correct,
        **{f"scores/{name}": scores for name, scores in record.scores.items()},
        **{f"kept/{name}": kept for name, kept in record.kept.items()},
    }


def _record(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Record:
    def named(part: str) -> dict[str, NDArray[Any]]:
        found = [name for name in arrays if name.startswith(part)]
        return {name.removeprefix(part): arrays[name] for name in found}

    return Record(
        cell=Cell.from_json(data["cell"]),
        seeded=data["seeded"],
        report=data["report"],
        problem=data["problem"],
        cost=Cost(**data["cost"]) if data["cost"] else None,
        correct=arrays["correct"],
        dense_correct=arrays["dense_correct"],
        scores=named("scores/"),
        kept=named("kept/"),
        seconds=data["seconds"],
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
