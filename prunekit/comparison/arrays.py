"""The arrays of a cell on disk: an npz file, read only as far as it is as large as it says."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

LARGEST = 2**30  # bytes of all arrays; the scores of a hundred million slices
TYPES = {"correct": "bool", "dense_correct": "bool", "scores": "float64", "kept": "int64"}
WRONG = (  # what zipfile and numpy raise over damage
    ValueError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def packed(arrays: Arrays) -> bytes:
    """Return arrays as the content of an npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays in the content of an npz file.

    Raises:
        ValueError: It is damaged, too large, or holds other arrays than a cell has.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes of arrays")
            return {
                entry.filename.removesuffix(".npy"): _array(archive, entry)
                for entry in archive.infolist()
            }
    except WRONG as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Read an array, once its header has proved to promise no more than there is."""
    name = entry.filename.removesuffix(".npy")
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    stream = io.BytesIO(content)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, _, dtype = npy.read_array_header_1_0(stream)
    left = len(content) - stream.tell()
    expected = TYPES.get(name.partition("/")[0])
    if len(shape) != 1 or str(dtype) != expected or shape[0] * dtype.itemsize != left:
        raise ValueError(f"{name} is {shape} {dtype}, with {left:,} bytes")
    return np.frombuffer(content, dtype, offset=stream.tell()).copy()
