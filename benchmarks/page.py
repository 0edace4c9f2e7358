"""What every page of results is made of: tables, and the facts that figures travel with."""

import io
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from prunekit.measuring.provenance import processor, versions


def markdown(table: Table) -> str:
    """Return a table as Markdown; its title is left to the page."""
    table.box, table.title = box.MARKDOWN, None
    page = Console(width=250, file=io.StringIO())
    page.print(table)
    return "\n".join(line.rstrip() for line in page.file.getvalue().strip().splitlines())


def facts(seeds: object, threads: int) -> str:
    """List the command, seeds, device and versions."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"- command: `python {' '.join(sys.argv)}`\n- seed: {seeds}\n"
        f"- device: cpu ({processor()}), threads {threads}\n- versions: {found}"
    )
