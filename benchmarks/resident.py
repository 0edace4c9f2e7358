"""extra_bytes: how much more memory a process holds while something runs."""

import threading
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize

POLL = 0.002  # seconds


def extra_bytes(run: Callable[[], object]) -> int:
    """Poll the resident set while `run` runs; return its peak, less its level before."""
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(POLL):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    kept = run()  # bound, so that the result still counts at the last poll
    peak = max(peak, resident_bytes())
    done.set()
    watcher.join()
    del kept
    return peak - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
