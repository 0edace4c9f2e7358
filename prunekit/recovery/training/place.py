"""The directory of a run: whose it is, and when another run may have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ...errors import TrainingError
from ...files.reading import cleaned, read_json, reason, shown
from .checkpoint import clear, whole
from .history import replace_file
from .setting import together

SETTINGS = "settings.json"
TOLD = 4  # settings that differ; more would not be read


def claim(directory: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Make a directory the place of a run with these settings.

    Raises:
        TrainingError: It holds a run that is not finished, and `resume` was not asked for; or it
            was, and the settings are others; or it cannot be written.
    """
    plain = json.loads(json.dumps(cleaned(settings)))
    with _explained(directory):
        found = _settings(directory)
        if found is not None and resume:
            _check_same(directory, found, plain)
            return
        if found is not None and not found.get("finished"):
            raise TrainingError(
                f"{str(directory)!r} holds a run that is not finished; add --resume to go on with "
                "it, or delete it to start again."
            )
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SETTINGS).unlink(missing_ok=True)  # first, or a kill would leave half a run
        clear(directory)
        replace_file(directory / SETTINGS, json.dumps(plain, indent=1) + "\n")


@contextmanager
def claimed(
    accelerator: Any, directory: Path | None, settings: Mapping[str, Any], resume: bool
) -> Iterator[None]:
    """Claim a directory, if there is one, and give it back if nothing comes of the run.

    Args:
        accelerator: This process's, among those that train together.
        directory: See `claim`, as for the next two.
        settings: What must not change.
        resume: Whether to go on with what is there.

    Raises:
        TrainingError: As `claim` says, in all processes.
    """
    if directory is None:
        yield
        return
    together(accelerator, lambda: claim(directory, settings, resume))
    try:
        yield
    except BaseException:
        if accelerator.is_main_process:
            release(directory)
        raise


def release(directory: Path) -> None:
    """Give a directory back if nothing in it is worth going on from."""
    with suppress(OSError):  # the error that ended the run is the one to be told
        if not whole(directory):
            (directory / SETTINGS).unlink(missing_ok=True)
            clear(directory)
            directory.rmdir()


def finish(directory: Path) -> None:
    """Note that what a run was for has been saved, so that the next may take its place.

    Raises:
        TrainingError: That cannot be written.
    """
    with _explained(directory):
        text = json.dumps({**(_settings(directory) or {}), "finished": True}) + "\n"
    replace_file(directory / SETTINGS, text)


def _settings(directory: Path) -> dict[str, JsonValue] | None:
    path = directory / SETTINGS
    if not path.exists():
        return None
    advice = f"delete {str(directory)!r} to start again"
    return read_json(path, dict[str, JsonValue], error=TrainingError, advice=advice)


def _check_same(directory: Path, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    others = [key for key in {**found, **now} if found.get(key) != now.get(key)]
    changes = [
        f"{_plain(key)} {_plain(found.get(key))} (now {_plain(now.get(key))})"
        for key in others
        if key != "finished"
    ]
    if changes:
        more = f" and {len(changes) - TOLD} other settings" if len(changes) > TOLD else ""
        raise TrainingError(
            f"The run in {str(directory)!r} was started with {', '.join(changes[:TOLD])}{more}; "
            "resume it with the "
            "settings it was started with, or name another --out."
        )


def _plain(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 100 else shown(value)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"Cannot write to {str(directory)!r} ({reason(error)}); name another --out."
        ) from error
