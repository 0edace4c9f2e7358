"""Connecting to Ray, or starting it, within a time that a person waits."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import GridError

ANSWER_S, CONNECT_S = 5.0, 30.0  # how long an address may take to answer, and to prove to be Ray's
OBJECTS_BYTES = 100 * 2**20  # records are small; Ray would set a third of the memory apart
QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}
LONGEST_PLACE = 35  # characters; Ray adds about 65 to it for a socket, whose path has 107 at most


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield Ray, connected; what was not there before is gone afterwards.

    Raises:
        GridError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise GridError("Ray is not installed; pip install 'prunekit[ray]'.") from error
    if ray.is_initialized():
        _check_same(ray, address)
        yield ray
        return
    # Ray would ask on the terminal, and would start a process for every core before any is needed.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_same(ray: Any, address: str | None) -> None:
    """Make sure that an address, if one is given, is the one this process is connected to."""
    if address not in (None, "auto", ray.get_runtime_context().gcs_address):
        raise GridError(
            f"This process is connected to Ray already, but not at {address!r}; call "
            "ray.shutdown() first, or leave out the address."
        )


def _connect(ray: Any, address: str) -> None:
    if address != "local":
        _check_answer(address)
        _check_is_ray(address)
    started = {"include_dashboard": False, "object_store_memory": OBJECTS_BYTES, **_place()}
    try:
        ray.init(address=address, **QUIET, **(started if address == "local" else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, _refusal(str(error))) from error


def _place() -> dict[str, str]:
    """Name a short directory for Ray's sockets if the usual one is too long for them."""
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return {"_temp_dir": "/tmp/ray"} if len(usual) > LONGEST_PLACE else {}


def _check_answer(address: str) -> None:
    """Make sure that something listens at an address; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in host:
        raise GridError(
            f"{address!r} is not the address of a Ray cluster; expected host:port or auto, on a "
            "machine that is part of it."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


def _check_is_ray(address: str) -> None:
    """Try out a connection in a process that can be ended; `ray.init` knows no time limit."""
    script = f"import ray, sys; ray.init(sys.argv[1], **{QUIET!r})"
    try:
        command = [sys.executable, "-c", script, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_S)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, _refusal(str(error.stderr))) from error
    if done.returncode:
        raise _unreachable(address, _refusal(done.stderr))


def _refusal(said: str) -> str:
    """Say why there is no connection; Ray's own words would name machines."""
    if "AuthToken" in said or "Unauthenticated" in said:
        return "it asks for a token, which Ray takes from RAY_AUTH_TOKEN"
    if "ersion mismatch" in said:
        return "it has another version of Ray or Python than this process"
    return "what listens there is not Ray, or not ready"


def _unreachable(address: str, reason: str) -> GridError:
    if address == "local":
        return GridError("Ray cannot be started on this machine; see what `ray start` says.")
    return GridError(
        f"No Ray cluster can be reached at {address!r} ({reason}); start one with "
        "`ray start --head`, or leave out --address to run on this machine."
    )


def named(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
