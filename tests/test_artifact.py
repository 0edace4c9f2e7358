"""Artifacts: what is saved is what is loaded, and nothing half-written is left behind."""

import hashlib
import json
import os
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunekit
from prunekit.artifact import PLAN, REPORT, WEIGHTS, read_report
from prunekit.errors import ArtifactError
from prunekit.files import replacing
from prunekit.inputs.zoo import build, names

FRESH = """
import sys, torch, prunekit
torch.set_num_threads(int(sys.argv[4]))  # convolutions add up in another order on another number
model = prunekit.load(sys.argv[1])
image = torch.load(sys.argv[2], weights_only=True)
with torch.inference_mode():
    torch.save(model(image), sys.argv[3])
"""


@pytest.fixture(scope="module")
def result():
    return prunekit.prune("vit_micro", "magnitude", 0.5, axes=("mlp", "head", "head_dim", "width"))


@pytest.fixture
def saved(result, tmp_path):
    result.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("arch", names())
def test_a_fresh_process_computes_the_same_bits(arch, tmp_path):
    result = prunekit.prune(arch, "dimap", 0.4)
    result.save(tmp_path / "saved")
    image = torch.randn(2, *result.model.pretrained_cfg["input_size"])
    torch.save(image, tmp_path / "image")

    places = [tmp_path / name for name in ("saved", "image", "output")]
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", FRESH, *places, threads], check=True)

    with torch.inference_mode():
        expected = result.model(image)
    assert expected.abs().max() > 0.1
    assert torch.equal(torch.load(tmp_path / "output", weights_only=True), expected)


def test_an_artifact_is_three_files_without_pickle(saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted([WEIGHTS, PLAN, REPORT])
    assert json.loads((saved / PLAN).read_text())["architecture"]["name"] == "vit_micro"
    assert load_file(saved / WEIGHTS)


def test_the_report_has_what_was_promised(saved):
    report = json.loads((saved / REPORT).read_text())
    assert report["asked"] == 0.5
    assert report["got"] == pytest.approx(0.5, abs=0.005)
    for side in ("before", "after"):
        assert {"params", "macs", "latency_ms", "top1"} <= set(report[side])
    assert {"parity", "seconds", "recipe", "warnings"} <= set(report)
    assert report["after"]["params"] == sum(
        tensor.numel() for tensor in load_file(saved / WEIGHTS).values()
    )


def test_saving_again_replaces_the_artifact(result, saved):
    other = prunekit.prune("vit_micro", "magnitude", 0.2)
    other.save(saved)
    assert sum(p.numel() for p in prunekit.load(saved).parameters()) == other.after.params
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_failed_write_leaves_the_old_artifact_alone(result, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as a full disk would
    try:
        with pytest.raises(ArtifactError, match="Cannot write to"):
            result.save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_replacement_that_fails_half_way_is_undone(result, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    rename, calls = os.rename, []

    def fail_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("the disk went away")
        rename(source, target)

    monkeypatch.setattr(replacing, "exchange", lambda *_: False)  # as on other systems
    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(ArtifactError, match="the disk went away"):
        result.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_directory_with_other_things_in_it_is_not_overwritten(result, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="something other than an artifact"):
        result.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_refused(result):
    with pytest.raises(ArtifactError, match=r"Cannot write to '/proc/"):
        result.save("/proc/prunekit/saved")


@pytest.mark.parametrize("name", [WEIGHTS, PLAN, REPORT])
def test_a_truncated_file_is_noticed(saved, name):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        prunekit.load(saved)


@pytest.mark.parametrize("name", [WEIGHTS, PLAN, REPORT])
def test_a_missing_file_is_noticed(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        prunekit.load(saved)


def test_altered_weights_are_noticed(saved):
    weights = load_file(saved / WEIGHTS)
    weights["head.bias"] = weights["head.bias"] + 1
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(ArtifactError, match="not what was saved"):
        prunekit.load(saved)


def test_an_altered_report_is_noticed(saved):
    text = (saved / REPORT).read_text()
    (saved / REPORT).write_text(text.replace('"asked": 0.5', '"asked": 0.6'))
    for read in (prunekit.load, read_report):
        with pytest.raises(ArtifactError, match=r"report\.json is not what was saved"):
            read(saved)


def test_an_altered_plan_is_noticed(saved):
    text = (saved / PLAN).read_text()
    (saved / PLAN).write_text(text.replace('"asked": 0.5', '"asked": 0.4'))
    with pytest.raises(ArtifactError, match=r"plan\.json is not what was saved"):
        prunekit.load(saved)


def forge(saved, change):
    """Alter plan.json, and the digest of it too."""
    plan = json.loads((saved / PLAN).read_text())
    change(plan)
    (saved / PLAN).write_text(json.dumps(plan))
    report = json.loads((saved / REPORT).read_text())
    report["plan_sha256"] = hashlib.sha256((saved / PLAN).read_bytes()).hexdigest()
    del report["sha256"]
    report["sha256"] = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    (saved / REPORT).write_text(json.dumps(report))


FORGERIES = {
    "runs-code": lambda plan: plan["architecture"]["card"].update({"class": "subprocess.Popen"}),
    "not-timm": lambda plan: plan["architecture"]["card"].update({"class": "torch.nn.Identity"}),
    "no-model": lambda plan: plan["architecture"]["card"].update({"class": "timm.models.adapt"}),
    "fetches": lambda plan: plan["architecture"].update(
        card=None, timm="vit_tiny_patch16_224", args={"checkpoint_path": "/etc/passwd"}
    ),
    "no-plan": lambda plan: plan.pop("plan"),
    "no-architecture": lambda plan: plan["architecture"].update(colour="blue"),
    "no-dtype": lambda plan: plan.update(dtype="load"),
    "no-slice": lambda plan: plan["plan"]["axes"]["blocks.0.mlp"].update(kept=[9999]),
    "other-slices": lambda plan: plan["plan"]["axes"]["blocks.0.mlp"].update(kept=[0, 1]),
    "other-format": lambda plan: plan.update(format=99),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_plan_is_refused_even_with_its_digest(saved, forgery):
    forge(saved, FORGERIES[forgery])
    with pytest.raises(ArtifactError):
        prunekit.load(saved)


def test_a_model_of_the_callers_own_is_loaded_into_its_original(tmp_path):
    original = build("convnext_micro")
    result = prunekit.prune(original, "magnitude", 0.5)
    result.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"as model to load\(\)"):
        prunekit.load(tmp_path / "saved")
    loaded = prunekit.load(tmp_path / "saved", model=build("convnext_micro"))
    image = torch.randn(1, 1, 48, 48)
    with torch.inference_mode():
        assert torch.equal(loaded(image), result.model(image))


def test_another_architecture_is_refused(saved):
    with pytest.raises(ArtifactError, match="made for another architecture"):
        prunekit.load(saved, model=prunekit.prune("vit_micro", "magnitude", 0.2).model)


def test_half_precision_survives(tmp_path):
    model = build("vit_micro").to(torch.bfloat16)
    result = prunekit.prune(model, "magnitude", 0.5, axes=("mlp", "head_dim"))
    result.save(tmp_path / "saved")
    loaded = prunekit.load(tmp_path / "saved", model=build("vit_micro"))
    assert next(loaded.parameters()).dtype == torch.bfloat16
    image = torch.randn(1, 1, 28, 28, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(loaded(image), result.model(image))


@pytest.mark.parametrize("wrong", [None, 3, b"runs/l1"])
def test_what_is_no_path_gets_a_sentence(wrong):
    with pytest.raises(ArtifactError, match=f"a path; got {type(wrong).__name__}"):
        prunekit.load(wrong)
