"""Exported files take images of other sizes, where that is asked for and the model can."""

import json
import time
from contextlib import suppress

import numpy as np
import pytest
import timm
import torch
from torch import nn

from prunekit import export, load, prune
from prunekit.cli import main
from prunekit.errors import ExportError
from prunekit.exporting import program
from prunekit.exporting.another_size import at_another_size
from prunekit.exporting.patience import at_most
from prunekit.exporting.source import Source


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved") / "cnn"
    prune("test_resnet", "magnitude", 0.3, weights="random", timed=False).save(place)
    return place


def pruned(model, **options):
    return prune(model, "magnitude", 0.3, timed=False, **options)


def difference(found, expected):
    return np.abs(found - expected.numpy()).max() / np.abs(expected.numpy()).max()


def test_an_onnx_file_takes_images_of_any_size_and_says_at_which_it_was_proved(
    cnn, tmp_path, capsys
):
    import onnxruntime

    out = tmp_path / "out"
    words = ["--to", "onnx", "--dynamic-size", "--no-timing", "--out", str(out)]
    assert main(["export", str(cnn), *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "any number of images, of any height and width that the model takes" in printed
    assert "at batch 3 of 192 x 224 pixels" in printed
    record = json.loads((out / "export.json").read_text())
    assert record["dynamic_size"]
    assert [(proof["batch"], *proof["size"]) for proof in record["proofs"]] == [
        (1, 160, 160), (3, 160, 160), (1, 192, 224), (3, 192, 224)
    ]  # fmt: skip
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    images = torch.randn(2, 3, 97, 131)  # which nobody has tried before
    (found,) = session.run(None, {"input": images.numpy()})
    with torch.inference_mode():
        assert difference(found, load(cnn)(images)) < 1e-5


def test_a_program_of_a_vision_transformer_of_any_size_resizes_its_positions(tmp_path):
    result = pruned(timm.create_model("test_vit", dynamic_img_size=True))
    found = export(result, "torch-export", tmp_path / "out", dynamic_size=True)
    assert {proof.size for proof in found.proofs} == {(160, 160), (192, 224)}
    images = torch.randn(2, 3, 96, 144)
    again = torch.export.load(tmp_path / "out" / "model.pt2").module()
    with torch.inference_mode():
        assert difference(again(images).numpy(), result.model(images)) < 1e-5


class AnySize(nn.Module):
    """Takes images of any size."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return self.down(self.up(x).relu()).mean((2, 3))


class OwnSizeAlone(AnySize):
    """Answers something else to images that are not of its own size."""

    def forward(self, x):
        return super().forward(x) * (1 if x.shape[-1] == 32 else 2)


def test_the_dense_model_is_timed_with_free_sizes_too(tmp_path, monkeypatch):
    given, freed, exported = AnySize(), [], program.torch.export.export

    def seen(model, args, kwargs, *, dynamic_shapes):
        freed.append(set(dynamic_shapes["x"]))
        return exported(model, args, kwargs, dynamic_shapes=dynamic_shapes)

    pruned(given, example_input=torch.randn(1, 3, 32, 32)).save(tmp_path / "own")
    monkeypatch.setattr(program.torch.export, "export", seen)
    found = export(
        tmp_path / "own", "onnx", tmp_path / "out", dynamic_size=True, model=given,
        example_input=torch.randn(1, 3, 32, 32),
    )  # fmt: skip
    assert freed == [{0, 2, 3}, {0, 2, 3}]
    assert set(found.latency_ms) == {1, 8}


def test_what_depends_on_the_size_is_seen_in_the_proof(tmp_path):
    result = pruned(OwnSizeAlone(), example_input=torch.randn(1, 3, 32, 32))
    with pytest.raises(ExportError, match=r"model.onnx differs .* at batch 1 of 32 x 32 pixels"):
        export(result, "onnx", tmp_path / "out", dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arch", ["vit_micro", "swin_micro"])
def test_a_model_of_one_size_is_refused_before_anything_is_exported(tmp_path, arch, monkeypatch):
    monkeypatch.setattr(program, "_exported", None)
    result = pruned(arch)
    with pytest.raises(ExportError, match=r"takes images of (\d+) x \1 pixels only \(Assertion"):
        export(result, "onnx", tmp_path / "out", dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_refuses_a_model_of_one_size_in_one_sentence(tmp_path, capsys):
    pruned("vit_micro").save(tmp_path / "vit")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "vit"), "--to", "onnx", "--dynamic-size"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prunekit: VisionTransformer takes images of 28 x 28 pixels only (")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def test_windows_that_torch_export_never_finishes_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "PATIENCE_S", 2)
    sizes = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2)}
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", strict_img_size=False, num_heads=(2, 4), **sizes
    )
    start = time.perf_counter()
    with pytest.raises(ExportError, match=r"of any size \(TimeoutError: not done within 2 s\)"):
        export(pruned(model), "torch-export", tmp_path / "out", dynamic_size=True)
    assert time.perf_counter() - start < 40
    assert list(tmp_path.iterdir()) == []


def test_a_program_for_larger_images_alone_is_refused_and_onnx_takes_them(tmp_path):
    result = pruned("test_efficientnet", weights="random", img_size=32)
    with pytest.raises(ExportError, match=r"not an input of shape \(1, 3, 32, 32\).*to onnx"):
        export(result, "torch-export", tmp_path / "out", dynamic_size=True)
    found = export(result, "onnx", tmp_path / "out", dynamic_size=True, timed=False)
    assert found.proofs[0].size == (32, 32)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "timm"}, "dynamic_size is for onnx and torch-export; got it for timm"),
        ({"to": "hub-folder"}, "got it for hub-folder. Leave it out"),
        ({"to": "onnx", "quantize": "int8"}, "dynamic_size and int8 exclude each other"),
    ],
)
def test_what_has_no_size_of_its_own_is_refused_before_anything_is_read(
    tmp_path, options, sentence
):
    with pytest.raises(ExportError, match=sentence):
        export(tmp_path / "nowhere", dynamic_size=True, **options)


def test_a_model_that_is_not_fed_images_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    result = pruned(model, example_input=torch.randn(1, 8))
    with pytest.raises(ExportError, match=r"this one is fed an input of shape \(1, 8\)"):
        export(result, "onnx", tmp_path / "out", dynamic_size=True)


class Picky(nn.Module):
    """Takes images whose sides are multiples of a number."""

    def __init__(self, multiple):
        super().__init__()
        self.multiple = multiple

    def forward(self, x):
        assert x.shape[2] % self.multiple == x.shape[3] % self.multiple == 0
        return x


@pytest.mark.parametrize(
    ("side", "multiple", "size"), [(40, 4, (72, 104)), (42, 14, (70, 98)), (40, 40, (80, 120))]
)
def test_a_size_that_the_model_takes_is_found(side, multiple, size):
    source = Source(Picky(multiple), torch.randn(1, 3, side, side), {}, None, None, {}, None)
    assert at_another_size(source).images.size[1:] == size


def test_what_is_in_time_is_left_alone_and_what_is_late_is_stopped():
    with at_most(60):
        done = sum(range(10))
    assert done == 45
    with pytest.raises(TimeoutError, match=r"not done within 0.2 s"), at_most(0.2):
        _go_on()


def _go_on():
    """Be as deaf as a library that catches all of its errors."""
    end = time.perf_counter() + 20
    while time.perf_counter() < end:
        with suppress(Exception):
            sum(range(1000))
