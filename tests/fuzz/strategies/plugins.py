"""Criteria and repairs that do what no plug-in should, and some that only look odd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

NAME = "fuzzed-plugin"


class Silly(BaseException):
    """Not even an Exception."""


class Mute(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Lines(Exception):
    """An exception of many lines, and an escape sequence."""

    def __str__(self) -> str:
        return "first\nsecond\n\x1b[31mthird"


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("odd"),
    "RuntimeError": lambda: RuntimeError("odd"),
    "AssertionError": AssertionError,
    "KeyError": lambda: KeyError("blocks"),
    "StopIteration": StopIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(0),
    "SystemExit-text": lambda: SystemExit("bye"),
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "OSError": lambda: OSError(28, "No space left on device"),
    "BrokenPipeError": BrokenPipeError,
    "UnicodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    "NotImplementedError": NotImplementedError,
    "Silly": Silly,
    "Mute": Mute,
    "Lines": Lines,
}
RETURNS = (
    "None", "number", "string", "no-list", "too-few", "too-many", "short", "long", "matrix",
    "nan", "inf", "complex", "tensor-of-none", "strings", "meta", "dict",
)  # fmt: skip
WRITES = ("weight", "grad", "grad_square", "inputs", "outputs", "index", "resize", "data")
NEEDS = ("nothing", "gradients", "squared_gradients", "activations")
# These are odd, but right: they must work, or be refused like the others.
ODD = ("integers", "half", "generator", "tuple", "requires-grad", "constant", "huge", "inverse")
SIGNATURES = ("none", "two", "keyword", "number", "class", "option", "varargs")
DECLARED = ("bogus", "", None, 3, ("activations",))


@dataclass(frozen=True)
class Criterion:
    """A criterion.

    Attributes:
        raises: What it raises, if anything: a key of `EXCEPTIONS`.
        returns: What it returns instead of scores.
        writes: What it writes to before it scores.
        signature: What is wrong with its parameters.
        needs: What it declares.
        scope: What it declares.
        odd: What looks odd of scores that are right.
        by_name: Whether it is registered and named on the command line.
    """

    raises: str | None = None
    returns: str | None = None
    writes: str | None = None
    signature: str | None = None
    needs: Any = "nothing"
    scope: Any = "axis"
    odd: str | None = None
    by_name: bool = False

    @property
    def wrong(self) -> bool:
        """Whether it must be refused."""
        declared = self.needs in NEEDS and self.scope in ("axis", "kind", "model")
        bent = self.signature not in (None, "varargs")
        return bool(self.raises or self.returns or self.writes or bent) or not declared


@dataclass(frozen=True)
class Repair:
    """A repair.

    Attributes:
        raises: What it raises, if anything.
        returns: What it returns instead of weight and bias: see `sorts.plugins`.
        writes: Which tensor of the layer it writes to.
        signature: What is wrong with its parameters.
        needs: What it declares.
        product: What its `product` does wrong, if it has one.
        dtype: Of the model.
        by_name: Whether it is registered and named on the command line.
    """

    raises: str | None = None
    returns: str | None = None
    writes: str | None = None
    signature: str | None = None
    needs: Any = "moments"
    product: str | None = None
    dtype: str = "float32"
    by_name: bool = False

    @property
    def wrong(self) -> bool:
        """Whether it must be refused; what it is given is its own, so it may write there."""
        if self.dtype == "float64" and self.returns in ("huge", "huge-bias"):
            return False  # which float64 can hold
        bent = self.signature not in (None, "varargs")
        product = self.product not in (None, "right")
        return bool(self.raises or self.returns or bent or product) or self.needs != "moments"


REPAIR_RETURNS = (
    "None", "number", "weight-only", "three", "swapped", "transposed", "no-bias", "nan", "inf",
    "huge", "huge-bias", "strings", "complex", "integers", "meta", "flat",
)  # fmt: skip
REPAIR_WRITES = ("weight", "bias", "covariance", "cross", "input_mean", "resize")
PRODUCTS = ("right", "None", "nan", "huge", "shapes", "one", "raises", "write")


def criteria() -> st.SearchStrategy[Criterion]:
    """Return criteria."""
    pick = st.sampled_from
    by_name, needs = st.booleans(), pick(NEEDS)
    return st.one_of(
        st.builds(Criterion, raises=pick(sorted(EXCEPTIONS)), needs=needs, by_name=by_name),
        st.builds(Criterion, returns=pick(RETURNS), needs=needs, by_name=by_name),
        st.builds(Criterion, writes=pick(WRITES), needs=needs, by_name=by_name),
        st.builds(Criterion, signature=pick(SIGNATURES), by_name=by_name),
        st.builds(Criterion, needs=pick(DECLARED), by_name=by_name),
        st.builds(Criterion, scope=pick(DECLARED), by_name=by_name),
        st.builds(Criterion, odd=pick(ODD), needs=needs, by_name=st.just(False)),
    )


def repairs() -> st.SearchStrategy[Repair]:
    """Return repairs."""
    pick = st.sampled_from
    by_name, dtype = st.booleans(), pick(["float32"] * 4 + ["float64", "bfloat16"])
    return st.one_of(
        st.builds(Repair, raises=pick(sorted(EXCEPTIONS)), by_name=by_name),
        st.builds(Repair, returns=pick(REPAIR_RETURNS), dtype=dtype),
        st.builds(Repair, returns=pick(REPAIR_RETURNS), by_name=by_name),
        st.builds(Repair, writes=pick(REPAIR_WRITES), dtype=dtype),
        st.builds(Repair, signature=pick(SIGNATURES), by_name=by_name),
        st.builds(Repair, needs=pick(DECLARED), by_name=by_name),
        st.builds(Repair, product=pick(PRODUCTS), by_name=by_name),
    )


DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
