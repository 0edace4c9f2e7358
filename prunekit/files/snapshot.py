"""Snapshot: the files of a directory as they were at one moment, whoever replaces it meanwhile."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from io import BufferedReader
from pathlib import Path

from .reading import check_plain

PATIENCE = 1.0  # seconds to wait for a directory that is away while another takes its place


class Snapshot:
    """Files that were opened together; a file that is replaced or removed stays readable.

    Attributes:
        directory: Where they lie, or lay.
    """

    def __init__(self, directory: Path, files: dict[str, BufferedReader], stack: ExitStack):
        self.directory, self._files, self._stack = directory, files, stack

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def file(self, name: str) -> BufferedReader:
        """Return a file, to be read from its beginning."""
        self._files[name].seek(0)
        return self._files[name]

    def read(self, name: str, limit: int) -> bytes:
        """Return all of a file.

        Raises:
            ValueError: It is larger than the limit.
        """
        file = self.file(name)
        check_plain(os.fstat(file.fileno()), limit)
        return file.read(limit + 1)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file, in hexadecimal."""
        return hashlib.file_digest(self.file(name), "sha256").hexdigest()


def snapshot(directory: Path, names: Sequence[str]) -> Snapshot:
    """Open those of some files that are there, all of one directory.

    Args:
        directory: Where they lie.
        names: Of the files.

    Raises:
        OSError: There is no such directory, or a file cannot be opened.
        ValueError: Something there is no plain file.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = _opened(directory, names)
        except FileNotFoundError:  # the directory itself is away
            if time.monotonic() > deadline:
                raise
            found = None
        if found is not None:
            return found
        time.sleep(0.001)


def _opened(directory: Path, names: Sequence[str]) -> Snapshot | None:
    """Open the files; None if the directory was replaced while that was done."""
    home = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, home)
        files: dict[str, BufferedReader] = {}
        for name in names:
            with suppress(FileNotFoundError):
                # Opening a pipe would wait for someone to write to it.
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                handle = os.open(name, flags, dir_fd=home)
                files[name] = stack.enter_context(os.fdopen(handle, "rb"))
                check_plain(os.fstat(handle), sys.maxsize)
        # Files are removed only from a directory that has been replaced before.
        if os.path.samestat(os.fstat(home), os.stat(directory)):
            return Snapshot(directory, files, stack.pop_all())
    return None
