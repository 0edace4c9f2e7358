"""A name on the Hugging Face Hub -> the directory of an artifact, if the user asks for one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import ArtifactError

PREFIX = "hf-hub:"


def fetched(name: str | Path, files: Iterable[str]) -> Path:
    """Return where an artifact lies: a directory as it is, of a name on the Hub its copy.

    Args:
        name: A directory, or "hf-hub:user/name", or that with "@revision" behind it.
        files: What belongs to an artifact; nothing else is fetched.

    Raises:
        ArtifactError: It is no name, or cannot be fetched.
    """
    if not isinstance(name, str | Path):
        came = type(name).__name__
        raise ArtifactError(f"An artifact is named by its directory, a path; got {came}.")
    if not str(name).startswith(PREFIX):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = str(name).removeprefix(PREFIX).partition("@")
    try:
        found = snapshot_download(
            repository, revision=revision or None, allow_patterns=sorted(files)
        )
    except HFValidationError as error:
        raise ArtifactError(
            f"{str(name)!r} is no name on the Hub; expected hf-hub:user/name."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise ArtifactError(
            f"{str(name)!r} cannot be fetched ({said}); check the name and the network, or name a "
            "directory."
        ) from error
    return Path(found)
