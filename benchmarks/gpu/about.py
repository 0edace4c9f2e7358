"""What the figures travel with: the card, versions, the command, and how the tests went."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from . import inside
from .settings import Settings

ROOT = Path(__file__).parents[2]


def about(settings: Settings, dry: bool) -> dict[str, Any]:
    """Return everything but figures."""
    device = inside.find_device(settings.device)
    return {
        "dry_run": dry,
        "device": inside.device_name(device),
        "card": _card(device) if device.type == "cuda" else None,
        "processor": inside.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": inside.versions(),
        "revision": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "command": f"python {' '.join(sys.argv)}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "timing": inside.timing(),
        "settings": asdict(settings),
    }


def _card(device: torch.device) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "semi_structured": inside.supported(),
    }


def _output(*command: str) -> str | None:
    """Return what a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def tests(path: Path | None) -> dict[str, Any] | None:
    """Read how the tests went off pytest's JUnit file; None if there is none."""
    if path is None or not path.is_file():
        return None
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = {
        f"{case.get('classname')}::{case.get('name')}": part.get("message", "").splitlines()[:1]
        for case in cases
        for part in case
        if part.tag in ("failure", "error")
    }
    skipped = [part for case in cases for part in case if part.tag == "skipped"]
    return {
        "found": len(cases),
        "skipped": dict(Counter(part.get("message", "") for part in skipped)),
        "failed": {name: "".join(lines) for name, lines in failed.items()},
        "seconds": round(sum(float(case.get("time", 0)) for case in cases), 1),
    }
