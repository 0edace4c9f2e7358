"""A damaged artifact is refused in a sentence, runs nothing, fetches nothing and takes no room."""

import json

import pytest
import torch

from prunekit import load

from .fuzzing import amounts, fuzz
from .scene import run_model
from .sorts.artifacts import examine
from .strategies.artifacts import artifacts
from .strategies.damage import copy, renew


@amounts
def test_a_damaged_artifact_is_refused_or_does_what_it_did(scene, amount):
    fuzz(artifacts(), lambda case: examine(scene, case), amount, few=24)


@pytest.mark.parametrize("masked", [False, True])
def test_the_digests_that_are_renewed_here_are_those_of_prunekit(scene, tmp_path, masked):
    saved = copy(scene.masked if masked else scene.artifact, tmp_path / "saved")
    for name in ("plan.json", "report.json"):
        data = json.loads((saved / name).read_text())
        data["a"] = "an entry that changes nothing but the digests"
        (saved / name).write_text(json.dumps(data))

    renew(saved)

    expected = scene.masked_output if masked else scene.output
    assert torch.equal(run_model(load(saved), scene.example), expected)
