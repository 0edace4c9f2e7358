"""Store: one directory per cell, written whole or not at all, and never by two at once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import ArtifactError
from ..files.reading import cleaned, parse, read_bytes, read_json, reason
from ..files.replacing import flush
from ..files.stored import digest_of, write_json
from .arrays import packed, unpacked
from .cell import Record
from .disk import CellFile, GridFile, TimingFile, arrays_of, plain_of, record_of

CELL, ARRAYS, GRID, TIMING = "cell.json", "arrays.npz", "grid.json", "timing.json"
CELLS, LOCKS = "cells", "locks"
PAGES = {"report.html", "report.md", "report.csv", "report.json", "figure.svg"}
LARGEST_CELL, LARGEST_ARRAYS, LARGEST_GRID = 32 * 2**20, 2**30, 2**28  # bytes


class Store:
    """The cells of a comparison, on disk.

    A cell appears under its key by one rename, so that it is there or not, wherever a process
    is killed. Who works on a cell holds a lock on a file; the system takes it back from a
    process that dies.
    """

    def __init__(self, root: Path):
        self.root = root
        self._cells, self._locks = root / CELLS, root / LOCKS

    def prepare(self) -> None:
        """Make the directories, and clear away what killed processes left unfinished.

        Raises:
            ArtifactError: They cannot be made, or there is something else in their place.
        """
        check_out(self.root)
        with _explained(self.root):
            for directory in (self._cells, self._locks):
                directory.mkdir(parents=True, exist_ok=True)
            unfinished = list(self._cells.glob(".*"))
        for partial in unfinished:
            with self.claim(partial.name[1:].partition("-")[0], wait=False) as mine:
                if mine:
                    shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def claim(self, key: str, *, wait: bool) -> Iterator[bool]:
        """Keep other processes of this machine from a cell; yields whether that worked.

        Args:
            key: The cell's.
            wait: Whether to wait until whoever has it is done with it.

        Raises:
            ArtifactError: There can be no lock.
        """
        with _explained(self.root):
            file = (self._locks / _short(key)).open("w")
        with file:
            try:
                with _explained(self.root, passing=BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                mine = True
            except BlockingIOError:
                mine = False
            yield mine

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
            arrays = packed(arrays_of(record))
            (partial / ARRAYS).write_bytes(arrays)
            data = {
                **plain_of(record),
                "determined_by": determined_by,
                "arrays_sha256": hashlib.sha256(arrays).hexdigest(),
            }
            write_json(partial / CELL, {**data, "sha256": digest_of(data)})
            flush(partial)
            partial.rename(self._cells / key)
        except OSError as error:
            if not self.has(key):
                raise ArtifactError(
                    f"The cell {key} cannot be written to {self.root} ({reason(error)}); make "
                    "room there, and run the same command again."
                ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, key: str) -> Record:
        """Return a cell.

        Raises:
            ArtifactError: It is not there, or not readable.
        """
        home, advice = self._cells / key, "remove it, and the same command will run it again"
        try:
            content = read_bytes(home / CELL, LARGEST_CELL)
            data: CellFile = parse(content, CellFile, f"The cell {home}", advice=advice)
            arrays = read_bytes(home / ARRAYS, LARGEST_ARRAYS)
            _check_digests(json.loads(content), arrays)
            return record_of(data, unpacked(arrays))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"The cell {home} is not readable ({reason(error)}); {advice}."
            ) from error

    def write_grid(self, data: Mapping[str, Any]) -> None:
        """Keep what was asked for, so that the report can be made again."""
        self._replace(GRID, data)

    def read_grid(self) -> GridFile:
        """Return what `write_grid` kept.

        Raises:
            ArtifactError: There is none, or it is not readable.
        """
        if not os.path.isfile(self.root / GRID):
            raise ArtifactError(
                f"{self.root} is not a comparison: it has no readable {GRID}; name the directory "
                "that was given as --out."
            )
        advice = "make the comparison again with the command that made it; its cells are kept"
        return read_json(self.root / GRID, GridFile, advice=advice, limit=LARGEST_GRID)

    def write_timing(self, data: Mapping[str, Any]) -> None:
        """Keep how fast models are."""
        self._replace(TIMING, data)

    def read_timing(self) -> TimingFile:
        """Return what `write_timing` kept, or that nothing is known.

        Raises:
            ArtifactError: It is not readable.
        """
        path = self.root / TIMING
        if not os.path.lexists(path):
            return {"where": None, "shapes": {}}
        advice = "remove it, and the same command will time the models again"
        return read_json(path, TimingFile, advice=advice, limit=LARGEST_GRID)

    def _replace(self, name: str, data: Mapping[str, Any]) -> None:
        partial = self.root / f".{name}-{uuid4().hex}"
        with _explained(self.root):
            try:
                _write(partial, json.dumps(cleaned(data), indent=1).encode())
                partial.replace(self.root / name)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def check_out(root: Path) -> None:
    """Find out before the work whether a directory may become, or is, a comparison's.

    Raises:
        ArtifactError: It holds something else, or cannot be read.
    """
    with _explained(root):
        if not os.path.lexists(root):
            return
        if not root.is_dir():
            raise ArtifactError(
                f"{root} is no directory and cannot be written as one; choose another --out."
            )
        names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    ours = {CELLS, LOCKS} <= names or names <= {CELLS, LOCKS} or PAGES <= names <= PAGES | {GRID}
    if not ours:
        raise ArtifactError(
            f"{root} holds something other than a comparison, {sorted(names)[0]!r} for one; "
            "choose a new or an empty --out."
        )


@contextmanager
def _explained(root: Path, passing: type[OSError] | None = None) -> Iterator[None]:
    """Say in a sentence why a comparison cannot be written.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # a name with a null character is the latter
        if passing is not None and isinstance(error, passing):
            raise
        raise ArtifactError(
            f"{str(root)!r} cannot be written ({reason(error)}); choose another --out."
        ) from error


def _check_digests(data: dict[str, Any], arrays: bytes) -> None:
    """Refuse a cell that was altered; those of before have no digests.

    Raises:
        ValueError: It was.
    """
    digest = data.pop("sha256", None)
    if digest is not None and digest != digest_of(data):
        raise ValueError(f"the digest of {CELL} does not match")
    if data.get("arrays_sha256", digest) is None:
        return
    if hashlib.sha256(arrays).hexdigest() != data.get("arrays_sha256"):
        raise ValueError(f"the digest of {ARRAYS} does not match")


def _short(key: str) -> str:
    """Return a file name for a lock, of a length that every file system takes."""
    return key if len(key) <= 100 else f"{key[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
