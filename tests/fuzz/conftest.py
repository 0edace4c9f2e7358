"""The scene, made once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .scene import Scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return what cases need."""
    return Scene(tmp_path_factory.mktemp("fuzz"))
