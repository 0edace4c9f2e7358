"""Stored: an artifact's files, opened at one moment and proved to be what was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from .hub import fetched
from .plan import PlanFile, Version
from .reading import LARGEST, cleaned, parse, reason
from .replacing import recover
from .report import Report
from .snapshot import Snapshot, snapshot

FORMAT = 1
WEIGHTS, PLAN, REPORT = "model.safetensors", "plan.json", "report.json"
MASKS, HISTORY, CURVE = "masks.safetensors", "history.jsonl", "learning_curve.svg"
NEEDED, EXTRAS = {WEIGHTS, PLAN, REPORT}, {HISTORY, CURVE}
OPTIONAL = EXTRAS | {MASKS}
ARTIFACT = NEEDED | OPTIONAL
LARGEST_RECORD = 256 * 2**20  # bytes of a history or a picture


@dataclass(frozen=True)
class Stored:
    """What the files of an artifact say; they are open as long as `opened` lasts.

    Attributes:
        directory: Where they lie.
        files: All of them.
        report: What was measured, with its digest and those of other files.
    """

    directory: Path
    files: Snapshot
    report: Report

    def plan(self) -> PlanFile:
        """Return what plan.json says, once the weights and the masks, too, have proved unaltered.

        Raises:
            ArtifactError: They have not, or it does not say how to build the model.
        """
        content = self._read(PLAN)
        if hashlib.sha256(content).hexdigest() != self.report.get("plan_sha256"):
            raise self._altered(PLAN)
        version = parse(content, Version, str(self.directory / PLAN))
        if version["format"] != FORMAT:
            raise ArtifactError(
                f"{self.directory} is an artifact of format {version['format']}; this prunekit "
                f"reads format {FORMAT}. Use the version it was saved with: "
                f"{version.get('versions')}."
            )
        plan = parse(content, PlanFile, str(self.directory / PLAN))
        self._verify(WEIGHTS, plan["weights_sha256"])
        if "masks_sha256" in plan:
            self._verify(MASKS, plan["masks_sha256"])
        return plan

    def history(self) -> str:
        """Return what each epoch of fine-tuning brought, one JSON object a line; may be empty."""
        if HISTORY not in self.report.get("files", {}):
            return ""
        return self._read(HISTORY, LARGEST_RECORD).decode("utf-8", errors="replace")

    def content(self, name: str) -> bytes:
        """Return all of a file of tensors; `plan` has proved it unaltered."""
        return self.files.file(name).read()

    def check_records(self) -> None:
        """Make sure that history and picture are what was saved.

        Raises:
            ArtifactError: They are not.
        """
        for name, digest in self.report.get("files", {}).items():
            if name not in EXTRAS:
                raise self._missing(repr(name))
            self._verify(name, digest)

    def _read(self, name: str, limit: int = LARGEST) -> bytes:
        return _content(self.files, name, limit)

    def _verify(self, name: str, digest: str) -> None:
        if name not in self.files:
            raise self._missing(name)
        if self.files.digest(name) != digest:
            raise self._altered(name)

    def _altered(self, name: str) -> ArtifactError:
        return _altered(self.directory / name)

    def _missing(self, name: str) -> ArtifactError:
        return _missing(self.directory, name)


@contextmanager
def opened(directory: str | Path) -> Iterator[Stored]:
    """Open an artifact and read its report; whoever replaces the artifact meanwhile is not seen.

    Args:
        directory: Where it lies, or a name on the Hub, see `fetched`.

    Raises:
        ArtifactError: There is no artifact, or its report is corrupt.
    """
    directory = fetched(directory, ARTIFACT)
    with _found(directory) as files:
        for name in (REPORT, PLAN, WEIGHTS):
            if name not in files:
                raise _missing(directory, name)
        content = _content(files, REPORT, LARGEST)
        report: Report = parse(content, Report, str(directory / REPORT))
        plain = json.loads(content)  # not `report`, where whole numbers have become floats
        if plain.pop("sha256", None) != digest_of(plain):
            raise _altered(directory / REPORT)
        report.pop("sha256", None)  # which is none of what was measured
        stored = Stored(directory, files, report)
        stored.check_records()
        yield stored


def is_artifact(directory: Path) -> bool:
    """Whether a directory has the files of an artifact, and no others."""
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return NEEDED <= found <= ARTIFACT


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write what `parse` reads.

    Raises:
        ArtifactError: It has a number that is not finite.
    """
    try:
        text = json.dumps(cleaned(data), indent=1, allow_nan=False)
    except ValueError as error:
        raise ArtifactError(
            f"What is to be written to {path.name} has a number that is not finite; nothing was "
            "saved, since the model's figures cannot be right. Check the weights."
        ) from error
    path.write_text(text + "\n", "utf-8")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(report: Mapping[str, Any]) -> str:
    """Return the digest of a report, whatever the order and the layout of its file."""
    # Through JSON and back, which is what a reader gets: keys become strings.
    plain = json.loads(json.dumps(cleaned(report)))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _found(directory: Path) -> Snapshot:
    names = (REPORT, PLAN, WEIGHTS, MASKS, HISTORY, CURVE)
    try:
        there = directory.exists() or recover(directory, is_artifact)
        if not there or directory.is_file():
            raise ArtifactError(
                f"There is no directory {str(directory)!r}; name one that prunekit wrote."
            )
        return snapshot(directory, names)
    except (OSError, ValueError) as error:  # a name with a null character is the latter
        raise ArtifactError(
            f"{str(directory)!r} cannot be read ({reason(error)}); name a directory that prunekit "
            "wrote and that you may read."
        ) from error


def _content(files: Snapshot, name: str, limit: int) -> bytes:
    try:
        return files.read(name, limit)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{files.directory / name} cannot be read ({reason(error)}); save it again."
        ) from error


def _missing(directory: Path, name: str) -> ArtifactError:
    return ArtifactError(
        f"{str(directory)!r} is not a whole artifact: {name} is missing; name a directory that "
        "prunekit wrote, or save it again."
    )


def _altered(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is not what was saved: its digest does not match. Save the artifact again, or "
        "fetch it from where it came."
    )
