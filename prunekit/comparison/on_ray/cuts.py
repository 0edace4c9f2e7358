"""measured: every cut of a sensitivity as a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import GridError
from ...inputs.data import fingerprint
from ...measuring.provenance import versions
from ...sensing.bench import Asked, Bench, Cell, Effect
from ..known import source_of, weights_digest
from ..launch import reason_of
from .alike import check_same
from .connect import named
from .luggage import Luggage
from .pool import Pool
from .share import Share


@dataclass(frozen=True)
class _Parcel:
    """What all tasks need: what was asked for, what it was planned with, and all else."""

    asked: Asked
    planned: Mapping[str, Any]
    luggage: Luggage


_benches: dict[str, Bench] = {}  # of the launch that this worker process serves, by its name


def measured(
    share: Share,
    ray: Any,
    bench: Bench,
    cells: Sequence[Cell],
    on_step: Callable[[str], None],
) -> Iterator[Effect]:
    """Yield what some cuts do, as workers find out; a failure is told once all others are done.

    Raises:
        GridError: A cut could not be measured, or no machine has what each is to get.
    """
    pool = _pool(share, ray, bench)
    left, flying, failures = list(cells), dict[Any, Cell](), list[str]()
    try:
        while left or flying:
            pool.count_slots()
            while left and len(flying) < 2 * pool.slots:
                cell = left.pop(0)
                flying[pool.start(cell)] = cell
            on_step(f"{len(cells) - len(left) - len(flying)} of {len(cells)} cuts")
            for task in pool.ready(flying):
                (axis, ratio), outcome = flying.pop(task), pool.fetch(task)
                if isinstance(outcome, Effect):
                    yield outcome
                else:
                    failures.append(f"{axis} at {ratio:.0%}: {outcome}")
    finally:
        pool.cancel(flying)
    if failures:
        raise GridError(
            f"{len(failures)} of {len(cells)} cuts could not be measured, such as {failures[0]} "
            "The same command tries them again."
        )


def _pool(share: Share, ray: Any, bench: Bench) -> Pool:
    request = bench.job.request
    repairs = [repair.name for repair in request.mending]
    luggage = Luggage.packed(share, [request.chosen.name], repairs)
    parcel = _Parcel(bench.asked, _found(bench, luggage.plugins), luggage)
    try:
        return Pool(share, ray, _cut, parcel)
    except Exception as error:  # of whatever a model, images or a plug-in hold
        raise GridError(
            f"What was asked for cannot be sent to Ray's workers ({named(error)}); name the model "
            "and the images, or measure here."
        ) from error


def _cut(parcel: _Parcel, cell: Cell) -> Effect | str:
    """Measure one cut in a worker; errors are told, not raised, as by `run_cell`."""
    name = parcel.luggage.name
    try:
        if name not in _benches:
            _benches.clear()
            parcel.luggage.unpack()
            bench = Bench(parcel.asked)
            check_same(parcel.planned, _found(bench, parcel.luggage.plugins))
            _benches[name] = bench
        return _benches[name].effect(cell)
    except Exception as error:  # of the worker, or of what was asked for
        _benches.clear()
        return reason_of(error)


def _found(bench: Bench, sent: Mapping[tuple[str, str], bytes]) -> dict[str, Any]:
    """Return what a process has of what figures depend on; not of what was sent along."""
    request, subject = bench.job.request, bench.job.subject
    adapter = type(subject.adapter)
    plugins: dict[str, tuple[str, str, Callable[..., Any] | type]] = {
        "criterion": ("prunekit.criteria", request.chosen.name, request.chosen.function),
        "adapter": ("prunekit.adapters", subject.adapter.name, adapter),
    }
    for number, repair in enumerate(request.mending):
        plugins[f"repair {number}"] = "prunekit.repairs", repair.name, repair.function
    found = {
        "versions": versions(),
        "device": next(subject.model.parameters()).device.type,
        "weights": weights_digest(subject.model),
        "data": fingerprint(bench.job.data) if bench.job.data else None,
    }
    own = {part: it for part, (*where, it) in plugins.items() if tuple(where) not in sent}
    return {**found, **{part: source_of(it) for part, it in own.items()}}
