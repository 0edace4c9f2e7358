"""Check: one claim about a plug-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PruneError


@dataclass(frozen=True)
class Check:
    """One claim about a plug-in; calling it raises an AssertionError if it is false."""

    claim: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()

    def __str__(self) -> str:
        return self.claim

    def problem(self) -> str | None:
        """Return what is wrong, or None."""
        try:
            self.run()
        except (AssertionError, PruneError) as error:
            return str(error).split("\n")[0]
        except Exception as error:  # a plug-in may raise anything; that too is a verdict
            return f"{type(error).__name__}: {error}"
        return None
