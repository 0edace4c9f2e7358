"""No command line ends in a traceback; a wrong one is refused in a sentence, and at once."""

import subprocess
import sys

import pytest

from .fuzzing import amounts, fuzz
from .outcome import exit_code
from .sorts.command_lines import examine
from .strategies.command_lines import command_lines


@amounts
def test_every_command_line_ends_in_order(scene, amount):
    fuzz(command_lines(), lambda line: examine(scene, line), amount, few=15)


@pytest.mark.parametrize(
    "line", [["run"], ["list"], ["compare", "--ratio", "x"], ["list", "\x1b[31m"]]
)
def test_the_sandbox_tells_what_a_process_of_its_own_tells(scene, line):
    command = [sys.executable, "-m", "prunekit", *line]
    process = subprocess.run(command, capture_output=True, text=True)

    with scene.sandbox() as cwd:
        ran = scene.run(line, cwd)

    assert (process.returncode, process.stderr) == (exit_code(ran), ran.err)
