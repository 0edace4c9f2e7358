"""fuzz, tally: run many cases that a strategy makes up, and stop at a bad one, or count all."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from .outcome import Outcome
from .sandbox import clock

Case = TypeVar("Case")
CALM = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
MANY = int(os.environ.get("FUZZ_EXAMPLES", "500"))
# Hypothesis soon makes variants of the first few examples, which are fine, and cases are costly;
# so it starts anew, from another seed, after as many.
SESSION = 10


@dataclass(frozen=True)
class Amount:
    """How much to fuzz.

    Attributes:
        long: As many cases as `FUZZ_EXAMPLES` says, other ones each time, made small when they
            fail; otherwise as few as the test says, always the same.
    """

    long: bool


amounts = pytest.mark.parametrize(
    "amount",
    [
        pytest.param(Amount(long=False), id="few"),
        pytest.param(Amount(long=True), id="many", marks=pytest.mark.long),
    ],
)


def fuzz(
    cases: SearchStrategy[Case],
    examine: Callable[[Case], Outcome],
    amount: Amount,
    few: int,
) -> None:
    """Run cases, and fail at the first whose outcome is not fine.

    Args:
        cases: What may come in.
        examine: Runs a case and judges what came of it.
        amount: How many.
        few: As many, if the amount is small.
    """
    # Without shrinking a failure shows in seconds, if not in its smallest form.
    phases = (Phase.generate, Phase.shrink) if amount.long else (Phase.generate,)
    first = random.SystemRandom().randrange(1 << 32) if amount.long else 0
    known: dict[str, Outcome] = {}

    def check(case: Case) -> None:
        told = repr(case)
        if told not in known:
            known[told] = examine(case)
        assert known[told].fine, f"{known[told]}\n{told}"

    count = MANY if amount.long else few
    for number in range(first, first + -(-count // SESSION)):
        _session(cases, check, number, min(count, SESSION), phases)


def tally(
    cases: SearchStrategy[Case], examine: Callable[[Case], Outcome], count: int, seconds: float
) -> list[tuple[Case, Outcome]]:
    """Run cases to the end, whatever comes of them; none twice.

    Args:
        cases: What may come in.
        examine: Runs a case and judges what came of it.
        count: How many, at most.
        seconds: After which no new case is begun.
    """
    found: dict[str, tuple[Case, Outcome]] = {}
    began = clock()

    def note(case: Case) -> None:
        told = repr(case)
        if told not in found and len(found) < count and clock() - began < seconds:
            found[told] = (case, examine(case))

    number = 0
    while len(found) < count and clock() - began < seconds and number < count:
        _session(cases, note, number, SESSION, (Phase.generate,))
        number += 1
    return list(found.values())


def _session(
    cases: SearchStrategy[Case],
    check: Callable[[Case], None],
    number: int,
    count: int,
    phases: tuple[Phase, ...],
) -> None:
    @seed(number)
    @settings(max_examples=count, phases=phases, **CALM)
    @given(cases)
    def run(case: Case) -> None:
        check(case)

    run()
