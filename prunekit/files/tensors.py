"""The header of a safetensors file: which tensors there are, before any is read."""

from __future__ import annotations

from typing import Annotated, BinaryIO

from annotated_types import Ge, Le, MaxLen, MinLen

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from ..errors import ArtifactError
from .reading import LARGEST, parse

Size = Annotated[int, Ge(0), Le(2**48)]


class TensorEntry(TypedDict):
    dtype: str
    shape: Annotated[list[Size], MaxLen(16)]
    data_offsets: Annotated[list[Size], MinLen(2), MaxLen(2)]


def shapes(file: BinaryIO, where: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors in a safetensors file.

    Args:
        file: The file, open at its beginning.
        where: What to call it in a sentence.

    Raises:
        ArtifactError: It is no such file.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST:
        raise ArtifactError(f"{where} is no safetensors file; save it again.")
    header = parse(file.read(length), dict[str, TensorEntry | dict[str, str]], where)
    header.pop("__metadata__", None)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}  # type: ignore[arg-type]
