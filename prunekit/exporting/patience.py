"""A limit of time for what cannot be asked to stop."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 5.0  # until it is stopped once more: what is raised in a destructor is lost


class _Late(BaseException):
    """Is no Exception, so that no library takes it for an error of its own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop what runs inside after some time, as Ctrl-C would: between two steps of Python.

    A process of its own could be ended by force, but not every model can be sent to one.

    Raises:
        TimeoutError: It took longer.
    """
    done, thread = threading.Event(), threading.get_ident()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            _raise_in(thread, _Late)
            wait = AGAIN_S

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            done.set()
            watcher.join()
            _raise_in(thread, None)  # what came at the last moment is taken back
    except _Late:
        done.set()
        raise TimeoutError(f"not done within {seconds:g} s") from None


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
