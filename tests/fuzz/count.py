"""Count outcomes of every sort of case: python tests/fuzz/count.py [--examples N] [--seconds S].

Unlike the tests, it goes on after a bad case. It prints the distinct faults of every sort, with
the shortest case of each, and a table of all outcomes. The same number of examples is the same
cases, as long as nobody changes the strategies, so that versions of prunekit can be compared.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.fuzzing import tally
from fuzz.outcome import KINDS, Outcome
from fuzz.sandbox import clock
from fuzz.scene import Scene

EXPENSIVE, DEAR = ("stores", "trainings", "weights files"), 4  # they get a fourth of the cases
Found = list[tuple[Any, Outcome]]
_CHILDREN = resource.RUSAGE_CHILDREN


def main() -> None:
    """Count, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=200, help="of a cheap sort (200)")
    parser.add_argument("--seconds", type=float, default=600, help="for each sort, at most (600)")
    parser.add_argument("--only", default="", help="sorts, comma-separated; all unless given")
    parser.add_argument("--all", action="store_true", help="print every case, the fine ones too")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(SORTS)
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        scene = Scene(Path(root))
        for name in chosen:
            began, used = clock(), _cpu()
            cases, examine = SORTS[name](scene)
            count = options.examples // (DEAR if name in EXPENSIVE else 1)
            found[name] = tally(cases, examine, count, options.seconds)
            took = f"{clock() - began:.0f} s, {_cpu() - used:.0f} s of CPU time"
            print(f"\n## {name}: {len(found[name])} in {took}\n")
            print("\n".join(distinct(found[name])), flush=True)
            for case, outcome in found[name] if options.all else ():
                print(f"{_short(repr(case))}\n      {_short(str(outcome))}")
    print("\n" + counts(found))


def _cpu() -> float:
    """Return the CPU time of this process and its children so far."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, _CHILDREN))


def counts(found: dict[str, Found]) -> str:
    """Return a table: a line for each sort, a column for each kind of outcome."""
    totals = {name: Counter(outcome.kind for _, outcome in cases) for name, cases in found.items()}
    kinds = [kind for kind in KINDS if any(total[kind] for total in totals.values())]
    lines = [f"| sort | tried | {' | '.join(kinds)} |", "|---|" + "---:|" * (len(kinds) + 1)]
    for name, total in totals.items():
        cells = " | ".join(str(total[kind] or "") for kind in kinds)
        lines.append(f"| {name} | {sum(total.values())} | {cells} |")
    whole = sum(totals.values(), Counter())
    cells = " | ".join(str(whole[kind]) for kind in kinds)
    return "\n".join([*lines, f"| all | {sum(whole.values())} | {cells} |"])


def distinct(cases: Found) -> list[str]:
    """Return the bad outcomes, each once, with the shortest case that leads to it."""
    alike: dict[tuple[str, str], list[tuple[Any, Outcome]]] = {}
    for case, outcome in cases:
        if not outcome.fine:
            alike.setdefault((outcome.kind, outcome.why), []).append((case, outcome))
    lines = []
    for (kind, why), group in sorted(alike.items(), key=lambda entry: -len(entry[1])):
        case, outcome = min(group, key=lambda one: len(repr(one[0])))
        lines.append(f"- {len(group)} x {kind}: {why}")
        lines.append(f"      {_short(repr(case))}\n      {_short(outcome.detail)}")
    return lines


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"


def _sorts() -> dict[str, Callable[[Scene], tuple[Any, Callable[[Any], Outcome]]]]:
    from fuzz.sorts import adapters, artifacts, command_lines, plugins, records
    from fuzz.sorts import prunings as pruned
    from fuzz.sorts import weights as weighed
    from fuzz.strategies.adapters import adapters as odd_adapters
    from fuzz.strategies.artifacts import artifacts as damaged
    from fuzz.strategies.command_lines import command_lines as lines
    from fuzz.strategies.plugins import criteria, repairs
    from fuzz.strategies.prunings import prunings
    from fuzz.strategies.records import stores, trainings
    from fuzz.strategies.weights import files

    def sort(cases: Any, examine: Callable[[Scene, Any], Outcome]) -> Any:
        return lambda scene: (cases, lambda case: examine(scene, case))

    return {
        "command lines": sort(lines(), command_lines.examine),
        "artifacts": sort(damaged(), artifacts.examine),
        "stores": sort(stores(), records.examine_store),
        "trainings": sort(trainings(), records.examine_training),
        "weights files": sort(files(), weighed.examine),
        "criteria": sort(criteria(), plugins.examine),
        "repairs": sort(repairs(), plugins.examine),
        "adapters": sort(odd_adapters(), adapters.examine),
        "prunings": sort(prunings(), pruned.examine),
    }


SORTS = _sorts()


if __name__ == "__main__":
    main()
