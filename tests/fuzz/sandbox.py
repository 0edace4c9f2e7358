"""in_child: run something in a forked process, with limits on time, memory and network."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

GIB = 1 << 30
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


@dataclass(frozen=True)
class Raised:
    """An exception that came out of a case.

    Attributes:
        type: Its class.
        message: What it says.
        place: The innermost line of prunekit it passed, as "file:function".
        ours: Whether it is a PruneError.
    """

    type: str
    message: str
    place: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.type} at {self.place}: {self.message}"


@dataclass(frozen=True)
class Ran:
    """What came of a case.

    Attributes:
        value: What it returned, as plain data.
        raised: What it raised instead.
        out, err: What it printed.
        seconds: CPU time it took.
        signal: What killed it, or None.
        timed_out: Whether that was the limit on time.
        network: Connections it asked for; they are refused.
        walked: Directories it listed outside the sandbox.
    """

    value: Any = None
    raised: Raised | None = None
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    signal: int | None = None
    timed_out: bool = False
    network: tuple[str, ...] = ()
    walked: int = 0


@dataclass
class _Seen:
    """What the audit hook has noticed."""

    home: str
    network: list[str] = field(default_factory=list)
    walked: int = 0


def in_child(
    work: Callable[[], Any],
    cwd: Path,
    *,
    stream: str = "utf-8",
    seconds: float = 40.0,
    memory: int = 3 * GIB,
) -> Ran:
    """Run `work` in a fork of this process.

    Args:
        work: Returns plain data.
        cwd: Where to run it.
        stream: The encoding of its standard output; "full" makes every write to it fail.
        seconds: Of CPU time, or five times as many of wall-clock time, before it is killed.
        memory: Bytes it may allocate on top of what this process has.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-child-") as scratch:
        place = Path(scratch)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_child(work, cwd, place, stream, seconds, memory)
        status, usage, timed_out = _wait(pid, 5 * seconds)
        return _collect(place, status, usage, timed_out)


def _wait(pid: int, seconds: float) -> tuple[int, Any, bool]:
    handle = os.pidfd_open(pid)
    try:
        done, _, _ = select.select([handle], [], [], seconds)
    finally:
        os.close(handle)
    if not done:
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage, not done


def _collect(place: Path, status: int, usage: Any, timed_out: bool) -> Ran:
    def text(name: str) -> str:
        path = place / name
        return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""

    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    result = json.loads(text("result") or "{}")
    raised = result.get("raised")
    return Ran(
        value=result.get("value"),
        raised=Raised(**raised) if raised else None,
        out=text("out"),
        err=text("err") + "".join(result.get("warnings", [])),
        seconds=usage.ru_utime + usage.ru_stime,
        signal=ended,
        timed_out=timed_out or ended == signal.SIGXCPU,
        network=tuple(result.get("network", ())),
        walked=result.get("walked", 0),
    )


def _be_child(
    work: Callable[[], Any], cwd: Path, place: Path, stream: str, seconds: float, memory: int
) -> NoReturn:
    """Do the work and leave; nothing of the parent's may run here afterwards."""
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        os.environ["HOME"] = str(cwd)
        _redirect(place, stream)
        seen = _Seen(os.path.realpath(cwd.parent))
        sys.addaudithook(lambda event, args: _audit(seen, event, args))
        _limit(seconds, memory)
        result: dict[str, Any] = {"value": None, "raised": None}
        with _plain_warnings() as warned:
            try:
                result["value"] = work()
                sys.stdout.flush()
            except BaseException as error:  # plug-ins raise anything, and so may prunekit
                result["raised"] = _described(error)
        resource.setrlimit(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1:] * 2)
        result |= {"network": seen.network, "walked": seen.walked}
        result["warnings"] = [f"{one.category.__name__}: {one.message}\n" for one in warned]
        (place / "result").write_text(json.dumps(result, default=str))
        sys.stderr.flush()
    except BaseException:  # a fault of the harness
        (place / "err").write_text("HARNESS " + traceback.format_exc())
    finally:
        os._exit(0)


def _redirect(place: Path, stream: str) -> None:
    out = os.open("/dev/full" if stream == "full" else place / "out", os.O_WRONLY | os.O_CREAT)
    err = os.open(place / "err", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(err, 2)
    encoding = "utf-8" if stream == "full" else stream
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False
    )


def _limit(seconds: float, memory: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _audit(seen: _Seen, event: str, args: tuple[Any, ...]) -> None:
    if event in NETWORK:
        if event == "socket.connect" and isinstance(args[1], str):
            return  # a socket of this machine
        seen.network.append(f"{event} {args[:2]}"[:80])
        raise OSError("the harness has no network")
    if event in ("os.scandir", "os.listdir") and isinstance(args[0], str):
        seen.walked += not os.path.realpath(args[0]).startswith(seen.home)


@contextmanager
def _plain_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Show the warnings that a user would see, whatever pytest makes of them."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        yield warned


def _described(error: BaseException) -> dict[str, Any]:
    from prunekit import PruneError

    place = "elsewhere"
    for frame in traceback.extract_tb(error.__traceback__):
        if "/prunekit/" in frame.filename:
            place = f"{frame.filename.rpartition('/prunekit/')[2]}:{frame.name}"
    try:
        message = str(error)
    except Exception as worse:
        message = f"(its message raises {type(worse).__name__})"
    ours = isinstance(error, PruneError)
    return {"type": type(error).__name__, "message": message, "place": place, "ours": ours}


def snapshot(root: Path) -> dict[str, tuple[int, ...]]:
    """Return what lies below a directory: names, sorts, sizes and times of change."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            plain = os.path.isfile(path) and not os.path.islink(path)
            told = (info.st_size, info.st_mtime_ns) if plain else ()
            found[os.path.relpath(path, root)] = (info.st_mode >> 12, *told)
    return found


def clock() -> float:
    """Return seconds of wall-clock time."""
    return time.monotonic()
