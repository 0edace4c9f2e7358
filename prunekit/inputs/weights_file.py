"""A weights file -> what lies in it, read without running any code from it."""

from __future__ import annotations

import argparse
import re
import stat
import textwrap
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from .sharded import parts_of

HEAD = 512  # bytes that tell what kind of file it is
ZIP = b"PK\x03\x04"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
SAVE_ALONE = (
    "where you trust the file, read it with torch.load(..., weights_only=False), and save the "
    "model's state_dict() alone with torch.save"
)


def read_weights_file(path: Path) -> object:
    """Return what a safetensors file, or one of torch.save, holds; large tensors are mapped.

    Of a directory, or an index of several files, all of them are read.

    Raises:
        WeightsError: The file is missing, damaged or of another kind, or holds more than tensors
            and plain data.
    """
    parts = parts_of(path)
    if parts:
        return _joined([(part, read_weights_file(part)) for part in parts])
    head = _head(path)
    if _is_safetensors(head, path.stat().st_size):
        return _read_safetensors(path)
    _check_kind(path, head)
    return _read_torch(path, mapped=head.startswith(ZIP) and _is_stored(path))


def printable(text: str, width: int = 80) -> str:
    """Return a text from a file on one line, without what a terminal would act on."""
    line = textwrap.shorten(text, width, placeholder=" ...")[:width]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def unreadable(path: Path, reason: str, advice: str) -> WeightsError:
    """Say that a file cannot be read."""
    return WeightsError(f"{str(path)!r} is not a readable weights file: {reason}; {advice}.")


def _head(path: Path) -> bytes:
    """Return the first bytes of a plain file."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
            example = f", such as {str(inside[0])!r}" if inside else ""
            what = f"with {len(inside)} weights files" if inside else "without weights"
            raise unreadable(path, f"it is a directory {what}", f"name a file{example}")
        if not stat.S_ISREG(mode):  # to open a pipe would be to wait for a writer
            raise unreadable(path, "it is a device or a pipe", "name a file")
        with path.open("rb") as file:
            return file.read(HEAD)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(
            f"There is no weights file {str(path)!r}; expected pretrained, random, auto, or the "
            "path of a safetensors or PyTorch file."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise unreadable(path, reason, "name a file that you may read") from error


def _joined(parts: Sequence[tuple[Path, object]]) -> object:
    """Return the tensors of several files as one; a single file's content as it is."""
    if len(parts) == 1:
        return parts[0][1]
    whole: dict[Any, Any] = {}
    for path, content in parts:
        if not isinstance(content, dict) or whole.keys() & content.keys():
            raise unreadable(path, "it is no part of several files", "download them again")
        whole.update(content)
    return whole


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins with the length of a header that has room in it, and a header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _check_kind(path: Path, head: bytes) -> None:
    """Refuse what is neither safetensors nor from torch.save, as far as its beginning shows."""
    again = "download or save it again"
    text = head.lstrip().lower()
    if not head:
        raise unreadable(path, "it is empty", again)
    if text.startswith((b"<!doctype html", b"<html")):
        reason = "it is a web page (HTML)"
        raise unreadable(path, reason, "download the file that the page is about")
    if text.startswith(b"version https://git-lfs"):
        reason = "it is a Git LFS pointer to the weights"
        raise unreadable(path, reason, "fetch them with git lfs pull")
    if _is_text(head):
        raise unreadable(path, "it is a text file", f"expected weights, so {again}")
    if path.suffix == ".safetensors":
        if head.startswith((ZIP, b"\x80")):
            reason = "its name says safetensors, but it is from torch.save"
            raise unreadable(path, reason, "rename it to end in .pth")
        raise unreadable(path, "it does not begin like safetensors", again)


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")  # the last character may be cut in two
    return len(text.encode()) > len(head) - 4 and all(c.isprintable() or c.isspace() for c in text)


def _is_stored(path: Path) -> bool:
    """Whether an archive is as torch.save leaves it; what was compressed since cannot be mapped.

    Raises:
        WeightsError: It is another zip file than torch.save writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        reason = "it is damaged or cut off"
        raise unreadable(path, reason, "download or save it again") from error
    names = {Path(entry.filename).name for entry in entries}
    if "constants.pkl" in names:
        reason = "it is a TorchScript archive"
        raise unreadable(
            path, reason, "save torch.jit.load(...).state_dict() with torch.save instead"
        )
    if "data.pkl" not in names:
        reason = f"it is an archive of {len(entries)} files without torch.save's data.pkl"
        raise unreadable(path, reason, "save model.state_dict() with torch.save instead")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path)
    except Exception as error:  # its own, torch's and the system's
        reason = printable(f"{type(error).__name__}: {error}", 120)
        raise unreadable(path, reason, "download or save it again") from error
    return tensors


def _read_torch(path: Path, mapped: bool) -> object:
    try:
        # Checkpoints of timm and DeiT hold their command line, which is harmless. What torch warns
        # of here, such as sparse tensors, is refused in a sentence.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises a dozen types for bad bytes
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            first = str(error).rpartition("WeightsUnpickler error: ")[2]
            reason = printable(f"{type(error).__name__}: {first}", 120)
            raise unreadable(
                path,
                reason,
                "expected safetensors, or tensors that torch.save "
                "wrote, so download or save it again",
            ) from error
        what = "a whole model, not its weights alone" if _holds_modules(path) else "other objects"
        reason = f"it holds {what} ({printable(culprit[1])})"
        raise unreadable(path, reason, SAVE_ALONE) from error


def _holds_modules(path: Path) -> bool:
    """Whether layers themselves were pickled."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # it is of torch's old format
        return False
    return any(name.startswith("torch.nn.modules.") for name in names)
