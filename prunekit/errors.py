"""Every error prunekit raises on purpose.

PruneError
├── RequestError        an option whose value, or whose company, makes no sense
├── RegistryError       an unknown or duplicate plug-in, architecture, axis or data set
├── CriterionError      a criterion that broke its contract
├── RepairError         a repair that broke its contract
│   └── TamperedError   either of them, which wrote to what it was given to read
├── AdapterError        a model no adapter knows, or an adapter that does not fit it
│   └── ReachesOutput   an axis that cannot shrink, since the model's output would
├── BudgetError         a ratio, floor or multiple that cannot be had
├── WeightsError        weights that are missing, corrupt or of another shape
├── DataError           images that are missing or unreadable
├── TrainingError       a training run that cannot start, or cannot go on
│   └── TrainingInterrupted   a training run that was stopped, and can go on
├── GridError           a comparison of what cannot be run
├── ArtifactError       a saved result that is corrupt, altered or cannot be written
├── ExportError         a model that cannot be written so, or whose file computes something else
├── DeviceError         a device that is not there
└── ParityError         the small model does not compute what the masked one does

All of them say what came, what was expected and what to do, in one sentence; the
command line prints that sentence and exits with code 2.
"""

from typing import Any

SHORT = 200  # characters of another error's message that a sentence can take


class PruneError(Exception):
    """Base of all errors that prunekit raises on purpose.

    Attributes:
        finished: What was done before a late failure, so that it need not be lost: a `Result` when
            `prune` raises it; None if nothing was.
    """

    finished: Any = None


class RequestError(PruneError):
    """An option has a value that cannot be used, or contradicts another one."""


class RegistryError(PruneError):
    """A name that nothing is registered under, or that is taken already."""


class CriterionError(PruneError):
    """A criterion returned something other than one finite score per slice."""


class RepairError(PruneError):
    """A repair returned something other than finite weights, or was given wrong options."""


class TamperedError(CriterionError, RepairError):
    """A criterion or a repair wrote to what it was given to read, or tried to.

    Attributes:
        changed: Whether it succeeded: then what it was given is no longer what it was, and
            neither is whatever shares it, such as the model and what other runs share.
    """

    def __init__(self, message: str, *, changed: bool = False):
        """Say what happened, and whether anything is left changed."""
        super().__init__(message)
        self.changed = changed

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `changed` when it is sent to another process."""
        return type(self), self.args, {"changed": self.changed}


class AdapterError(PruneError):
    """No adapter knows the model, or an adapter's axes do not fit it."""


class ReachesOutput(AdapterError):
    """An axis cannot shrink, since the model's output would.

    Attributes:
        axis: Its name.
    """

    def __init__(self, axis: str):
        """Name the axis."""
        super().__init__(
            f"Axis {axis!r} reaches the model's output, whose size must not change; leave it out "
            f"with --exclude {axis!r} (exclude=[{axis!r}])."
        )
        self.axis = axis

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the axis when it is sent to another process."""
        return type(self), (self.axis,)


class BudgetError(PruneError):
    """The budget that was asked for cannot be met."""


class WeightsError(PruneError):
    """Weights are missing, corrupt, or belong to another architecture."""


class DataError(PruneError):
    """Images are missing or unreadable, or labels do not fit the model."""


class TrainingError(PruneError):
    """A training run cannot start as it was asked for, or cannot go on."""


class TrainingInterrupted(TrainingError):
    """A training run was asked to stop, and did; it can be resumed."""


class GridError(PruneError):
    """A comparison was asked for that cannot be run as it stands."""


class ArtifactError(PruneError):
    """A saved result is corrupt or altered, or cannot be written."""


class ExportError(PruneError):
    """A model that cannot be exported so, or an exported file that computes something else."""


class DeviceError(PruneError):
    """The device that was asked for is not there."""


class ParityError(PruneError):
    """The pruned model does not compute what the masked model computes."""


class PluginWarning(UserWarning):
    """A plug-in cannot be used, and was passed over; all others still work."""


def described(error: BaseException) -> str:
    r"""Return the type and the message of any exception, in one short, printable line.

    Example:
        >>> described(ValueError("one\ntwo \x1b[1mthree"))
        'ValueError: one two [1mthree'
    """
    try:
        text = str(error)
    except Exception:  # of a class of somebody else's
        text = ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= SHORT else f"{text[: SHORT - 4].rstrip()} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
