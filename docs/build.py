"""Build the documentation site: `python docs/build.py [DIR]`, by default into site/.

Pages link to files of the repository that are not below docs/, such as the reports in
benchmarks/results. These files come along into the site, so that one link works in both places.
A link that leads nowhere is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OWN = ("build.py", "reading.py", "zensical.toml")  # in docs/, but no part of the site
LINK = re.compile(r"(\]\()([^)\s#:]+)([)#\s])")  # without a scheme, and up to an anchor or a title


def build(out: Path) -> None:
    """Build the site into an empty or new folder.

    Raises:
        SystemExit: A link leads nowhere, or the builder has something else to say.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder).resolve()
        for name in ("reading.py", "zensical.toml"):
            shutil.copyfile(DOCS / name, stage / name)
        missing = gather(stage / "docs")
        if missing:
            sys.exit("These links lead nowhere:\n" + "\n".join(missing))
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=stage, env={**os.environ, "PYTHONPATH": search})
        if done.returncode:
            sys.exit(done.returncode)
        shutil.copytree(stage / "site", out, dirs_exist_ok=True)


def gather(stage: Path) -> list[str]:
    """Copy all of docs/ and every file that its pages link to, directly or not.

    Returns:
        The links that lead to no file, in words.
    """
    queue = [path for path in sorted(DOCS.rglob("*")) if path.is_file() and path.name not in OWN]
    seen, missing = set(queue), []
    for source in queue:  # grows while it is read
        target = stage / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        text = source.read_text(encoding="utf-8")
        for link in linked(text):
            found = Path(os.path.normpath(source.parent / link))
            if not found.is_file():
                missing.append(f"{source.relative_to(ROOT)}: {link}")
            elif found not in seen:
                seen.add(found)
                queue.append(found)
        target.write_text(moved(text, source), encoding="utf-8")
    return missing


def place(file: Path) -> Path:
    """Return where a file of the repository is in the site: docs/ is its root."""
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT)


def linked(text: str) -> list[str]:
    """Return the files that a page links to, code left out."""
    prose = re.sub(r"^ *```.*?^ *```$|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [link for _, link, _ in LINK.findall(prose)]


def moved(text: str, source: Path) -> str:
    """Return a page whose links lead to where files are in the site."""

    def there(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        found = Path(os.path.normpath(source.parent / link))
        if not found.is_file():  # in code
            return match[0]
        return before + os.path.relpath(place(found), place(source).parent) + after

    return LINK.sub(there, text)


if __name__ == "__main__":
    out = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "site"
    if not sys.argv[1:]:
        shutil.rmtree(out, ignore_errors=True)
    elif out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty; name another folder.")
    build(out)
