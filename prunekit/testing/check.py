"""Check: one claim about a plug-in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ..errors import PruneError, described

S = TypeVar("S")
Claim = tuple[str, Callable[[S], None]]  # in words, and what fails if it is false


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
        except (Exception, SystemExit) as error:  # a plug-in may raise anything: a verdict too
            return described(error)
        return None


def checks(claims: Sequence[Claim[S]], subject: S) -> list[Check]:
    """Return claims about one subject as checks."""
    return [Check(claim, partial(holds, subject)) for claim, holds in claims]
