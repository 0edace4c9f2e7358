"""Replacing a directory: what was there before or what is new, whole, at every moment."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import ArtifactError
from .reading import reason

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
NEW, ASIDE = ".prunekit", ".old"

_at_work: set[Path] = set()  # what this process is writing to


def settled(target: str | Path, ours: Callable[[Path], bool]) -> Path:
    """Find out before the work whether a directory can be written, and where it really is.

    Links are followed, also those to what is not there yet. Nothing is made, so that a run that
    fails leaves nothing behind. What a killed process left half-replaced is put in order.

    Args:
        target: The directory, which need not be there.
        ours: Whether a directory that is not empty holds what may be replaced.

    Returns:
        Its place, absolute and without links.

    Raises:
        ArtifactError: It cannot be made, or not be replaced by another.
    """
    if "\0" in os.fspath(target):
        raise ArtifactError(f"{str(target)!r} has a null character in it; name another directory.")
    with explained(target):
        place = Path(os.path.realpath(target))
        if place.is_symlink():  # only a link that leads to itself is left
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        recover(place, ours)
        if place.exists():
            _check_replaceable(place, target, ours)
        above = next(parent for parent in place.parents if parent.exists())
        for name in place.relative_to(above).parts:
            (above / name).exists()  # raises if no file can have that name
        with _partial(above, place.name):
            pass
    return place


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yield a new directory to write to, which takes another's place if all goes well.

    Args:
        place: What `settled` returned.

    Raises:
        ArtifactError: It cannot be written; then nothing has changed.
    """
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _partial(place.parent, place.name) as partial:
            yield partial
            partial.chmod(0o755)  # mkdtemp makes it private, safetensors what it writes
            for path in partial.glob("*.safetensors"):
                path.chmod(0o644)
            flush(partial)
            _swap(partial, place)


def abandon() -> None:
    """Remove what is being written, for a process that is about to end on the spot."""
    for partial in list(_at_work):
        shutil.rmtree(partial, ignore_errors=True)


def recover(place: Path, ours: Callable[[Path], bool]) -> bool:
    """Finish the replacement of a directory that a process was killed in.

    Args:
        place: The directory, which may be missing.
        ours: Whether a directory is one that was replaced, or was to take its place.

    Returns:
        Whether there is such a directory, seen while no process is replacing it.

    Raises:
        OSError: That cannot be done.
    """
    pattern = f".{glob.escape(place.name)}.????????{ASIDE}"
    if place.exists() and not any(map(ours, place.parent.glob(pattern))):
        return True
    if not place.parent.is_dir():
        return False
    with _locked(place.parent):  # so that whoever may be at it has finished
        for aside in filter(ours, place.parent.glob(pattern)):
            if not place.exists():
                new = aside.with_name(aside.name.removesuffix(ASIDE) + NEW)
                os.rename(new if ours(new) else aside, place)
                logging.getLogger("prunekit").warning(
                    "prunekit: a process was killed while it replaced %s; that is finished now.",
                    place,
                )
            shutil.rmtree(aside, ignore_errors=True)
        return place.exists()


@contextmanager
def explained(target: str | Path) -> Iterator[None]:
    """Say in a sentence why something cannot be written.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        yield
    except (OSError, SafetensorError, UnicodeError) as error:
        raise ArtifactError(
            f"Cannot write to {str(target)!r} ({reason(error)}); name a directory with room that "
            "you may write to. Nothing was changed."
        ) from error


def flush(directory: Path) -> None:
    """Wait until all files are on the disk, not only in its cache."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_replaceable(place: Path, target: str | Path, ours: Callable[[Path], bool]) -> None:
    if not place.is_dir():
        raise ArtifactError(f"{str(target)!r} is a file; name a directory.")
    if any(place.iterdir()) and not ours(place):
        raise ArtifactError(
            f"{str(target)!r} holds something other than an artifact; name a new or an empty "
            "directory."
        )
    mounted = os.path.ismount(place)
    if mounted or os.path.samefile(place, os.curdir):
        what = "a mount point" if mounted else "the directory you are in"
        raise ArtifactError(
            f"{str(target)!r} is {what}, which cannot be replaced as a whole; name a directory in "
            f"it, such as {os.path.join(target, 'pruned')!r}."
        )


@contextmanager
def _partial(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory to write to, locked for as long as this process is at it."""
    with _locked(parent):  # so that nobody takes it for one of the dead before it is locked
        _sweep(parent, name)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=NEW, dir=parent))
        handle = os.open(partial, os.O_RDONLY)
        with suppress(OSError):  # as in `_locked`
            fcntl.flock(handle, fcntl.LOCK_EX)
    _at_work.add(partial)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _at_work.discard(partial)
        os.close(handle)


def _sweep(parent: Path, name: str) -> None:
    """Remove what processes were writing when they were killed: the system freed their locks."""
    for partial in parent.glob(f".{glob.escape(name)}.????????{NEW}"):
        with suppress(OSError):  # somebody is at it, or has just finished
            handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            finally:
                os.close(handle)


def _swap(new: Path, place: Path) -> None:
    """Put `new` in a directory's place, and leave what was there in `new`'s."""
    if not place.exists():
        os.rename(new, place)
    elif not exchange(new, place):
        _swap_in_steps(new, place)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two directories at once; whether this system can.

    Raises:
        OSError: It can in general, but these two cannot be exchanged.
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:  # by the kernel, or by this file system
        return False
    raise OSError(code, os.strerror(code), str(second))


def _swap_in_steps(new: Path, place: Path) -> None:
    """Swap by renaming; `recover` finishes it if the process is killed half-way."""
    aside = place.with_name(new.name.removesuffix(NEW) + ASIDE)
    with _locked(place.parent):
        os.rename(place, aside)
        try:
            os.rename(new, place)
        except BaseException:
            os.rename(aside, place)
            raise
        os.rename(aside, new)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep others from swapping or recovering in a directory; the system frees it of the dead."""
    if directory in _at_work:  # it is locked already, and to wait for ourselves would be forever
        yield
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@cache
def _renameat2() -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
