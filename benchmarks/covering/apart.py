"""A process of its own for every architecture, with a limit of memory and of time.

The processes are forks of one server that has imported everything, since the imports take about as
long as a small model does.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

MEMORY, SECONDS = 22 * 2**30, 600
Found = dict[str, Any]

_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload(["timm", "torchvision", "covering.worker", "covering.rival"])


class TooLarge(Exception):
    """A model does not fit."""


def apart(tried: Callable[[str], Found], name: str, seed: int) -> Found:
    """Call a function with a name in a process of its own; return what it found, or how it ended.

    Adds the seconds of processor time, and the most memory that was in use, in GiB.
    """
    receiving, sending = _servers.Pipe(duplex=False)
    process = _servers.Process(target=_answer, args=(tried, name, seed, sending))
    process.start()
    sending.close()
    try:
        if not receiving.poll(SECONDS):
            return {"name": name, "outcome": "slow", "why": f"over {SECONDS} s"}
        return dict(receiving.recv())
    except EOFError:  # it was killed
        process.join()
        return {"name": name, "outcome": "crash", "why": f"exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _answer(tried: Callable[[str], Found], name: str, seed: int, sending: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    began = time.process_time()
    try:
        found = tried(name)
    except (TooLarge, MemoryError) as error:
        found = {"outcome": "too large", "why": str(error)}
    except Exception as error:  # of a model, or of a tool: that it fails is part of the answer
        found = {"outcome": "crash", "why": f"{type(error).__name__}: {error}"[:300]}
    found["seconds"] = round(time.process_time() - began, 1)
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    sending.send({"name": name, **found})
