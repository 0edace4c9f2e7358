"""Exported files compute what the pruned model does, in their own runtimes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import prunekit
from prunekit import export, load, prune
from prunekit.cli import main
from prunekit.errors import ArtifactError, ExportError
from prunekit.exporting import export as exporting
from prunekit.exporting import onnx_file, timm_words
from prunekit.exporting.proof import agreement
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.accuracy import accuracy

IMAGES = InputSpec.of(timm.create_model("test_vit")).example(seed=1, batch=5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return directories of pruned models: a ViT with heads, a CNN of auto, one that is uniform."""
    place = tmp_path_factory.mktemp("saved")
    for name, arch, options in (
        ("vit", "test_vit", {}),
        ("cnn", "test_resnet", {}),
        ("uniform", "test_vit", {"axes": ["mlp"], "uniform": True, "multiple": 4}),
        ("masked", "test_vit", {"granularity": "weight"}),
    ):
        prune(arch, "magnitude", 0.3, weights="random", timed=False, **options).save(place / name)
    return place


def onnxruntime_says(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    (fed,) = session.get_inputs()
    (made,) = session.run(None, {fed.name: images.numpy()})
    return made


@pytest.mark.parametrize("name", ["vit", "cnn", "masked"])
def test_onnxruntime_computes_the_same_at_any_batch_size(saved, tmp_path, name):
    found = export(saved / name, "onnx", tmp_path / "out", timed=False)
    assert [proof.batch for proof in found.proofs] == [1, 3]
    with torch.inference_mode():
        expected = load(saved / name)(IMAGES).numpy()
    made = onnxruntime_says(tmp_path / "out" / "model.onnx", IMAGES)
    assert np.abs(made - expected).max() < 1e-5 * np.abs(expected).max()
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["to"] == "onnx"
    assert record["files"] == {"model.onnx": (tmp_path / "out" / "model.onnx").stat().st_size}
    assert record["proofs"][1]["holds"]


def test_an_onnx_file_says_what_it_is_and_is_timed_beside_the_dense_model(saved, tmp_path):
    import onnx

    found = export(saved / "vit", "onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model)
    (fed,), (made,) = model.graph.input, model.graph.output
    assert [fed.name, made.name] == ["input", "output"]
    batch, _, height, width = fed.type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert height.dim_value == width.dim_value == 160
    assert {p.key: p.value for p in model.metadata_props}["prunekit.criterion"] == "magnitude"
    assert set(found.latency_ms) == {1, 8}
    assert found.latency_ms[8].dense.median > found.latency_ms[1].pruned.median > 0


ALONE = """
import sys, torch
from safetensors.torch import load_file, save_file
with torch.inference_mode():
    made = torch.export.load(sys.argv[1]).module()(load_file(sys.argv[2])["x"])
assert not {"timm", "prunekit"} & set(sys.modules)
save_file({"y": made}, sys.argv[3])
"""


def test_torch_loads_what_was_exported_without_prunekit_and_timm(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    export(saved / "cnn", "torch-export", tmp_path / "out")
    save_file({"x": IMAGES}, tmp_path / "x")
    paths = [str(tmp_path / name) for name in ("out/model.pt2", "x", "y")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *paths], check=True)
    with torch.inference_mode():
        expected = load(saved / "cnn")(IMAGES)
    assert torch.allclose(load_file(tmp_path / "y")["y"], expected, atol=1e-5)


def test_stock_timm_loads_a_uniform_plan(saved, tmp_path):
    export(saved / "uniform", "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), load(saved / "uniform")(IMAGES))
    assert model.blocks[0].mlp.fc1.out_features < 4 * model.embed_dim
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "test_vit"


def test_stages_of_a_swin_are_told_to_timm_one_by_one(tmp_path):
    result = prune("swin_micro", "magnitude", 0.3, uniform=True, timed=False)
    found = export(result, "timm", tmp_path / "out")
    assert found.proofs[1].difference == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    heads = [layer.blocks[0].attn.num_heads for layer in result.model.layers]
    assert config["model_args"]["num_heads"] == heads != [2, 4, 8]


@pytest.mark.parametrize(
    ("name", "axis", "advice"),
    [
        ("vit", "blocks.0.attn.head", "prune with --uniform --axes mlp"),
        ("cnn", "layer1.0.conv1", "export to onnx, torch-export or hub-folder"),
    ],
)
def test_what_timm_cannot_say_is_named(saved, tmp_path, name, axis, advice):
    with pytest.raises(ExportError, match=f"what axis '{axis}' keeps .*; {advice}"):
        export(saved / name, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_differ_within_a_stage_are_named(tmp_path):
    uneven = prune("test_vit", "magnitude", 0.2, weights="random", axes=["mlp"], multiple=4,
                   scope="kind", timed=False)  # fmt: skip
    with pytest.raises(ExportError, match="these keep different ones; prune with --uniform"):
        export(uneven, "timm", tmp_path / "out")


def test_a_folder_for_the_hub_is_loaded_like_an_artifact(saved, tmp_path):
    from huggingface_hub import ModelCard

    export(saved / "vit", "hub-folder", tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "out")(IMAGES), load(saved / "vit")(IMAGES))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "prunekit"
    assert "--arch test_vit --weights random --criterion magnitude --ratio 0.3" in card.text
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".pt", ".pkl")]


def test_the_command_on_the_card_makes_the_same_model(tmp_path):
    options = {"axes": ["mlp"], "floor": 0.2, "scope": "model", "repair": "lstsq:ridge=0.1"}
    result = prune("vit_micro", "dimap:plain=true", 0.4, timed=False, calibration=64, **options)
    export(result, "hub-folder", tmp_path / "hub")
    (line,) = [
        line for line in (tmp_path / "hub" / "README.md").read_text().splitlines()
        if line.startswith("$ prunekit")
    ]  # fmt: skip
    words = line.removeprefix("$ prunekit ").split()
    out = ["--out", str(tmp_path / "again"), "--no-timing", "--no-evaluation"]
    assert main([*words, *out]) == 0
    again = load(tmp_path / "again").state_dict()
    assert all(
        torch.equal(again[name], value)
        for name, value in load(tmp_path / "hub").state_dict().items()
    )


def test_a_model_on_the_hub_is_loaded_by_its_name(saved, tmp_path, monkeypatch):
    """The cache is laid out as huggingface_hub lays it out; nothing is online."""
    export(saved / "vit", "hub-folder", tmp_path / "out")
    home = tmp_path / "cache" / "models--someone--small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    (home / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "out").iterdir():
        (home / "blobs" / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with torch.inference_mode():
        assert torch.equal(load("hf-hub:someone/small")(IMAGES), load(saved / "vit")(IMAGES))
    with pytest.raises(ArtifactError, match="'hf-hub:someone/other' cannot be fetched"):
        load("hf-hub:someone/other")
    with pytest.raises(ArtifactError, match=r"is no name on the Hub; expected hf-hub:user/name"):
        load("hf-hub:not a name")


@pytest.mark.parametrize("to", ["onnx", "torch-export", "timm", "hub-folder"])
def test_what_computes_something_else_is_not_saved(saved, tmp_path, monkeypatch, to):
    """A bias of the model is changed after it was read, as if the exporter had lost something."""
    proved = exporting._proved

    def other(sizes, *args, **kwargs):
        with torch.no_grad():
            names = dict(sizes[0].model.named_parameters())
            next(names[name] for name in names if name.endswith("fc1.bias")).add_(0.1)
        return proved(sizes, *args, **kwargs)

    monkeypatch.setattr(exporting, "_proved", other)
    with pytest.raises(ExportError, match=r"differs from the pruned model by .*nothing was saved"):
        export(saved / "uniform", to, tmp_path / "out", timed=False)
    assert list(tmp_path.iterdir()) == []


def test_a_nan_in_any_output_is_no_agreement():
    """The largest of numbers among which one is a NaN depends on their order."""
    model, x = Pair(), torch.ones(1, 2)
    fine, wrong = torch.ones(1, 2), torch.full((1, 2), torch.nan)
    for found in ((fine, wrong), (wrong, fine)):
        with pytest.raises(ExportError, match="differs from the pruned model by nan"):
            agreement(model, x, 1, found, "it", half=False)
    assert agreement(model, x, 1, (fine, fine), "it", half=False).difference == 0


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.scale, x / self.scale


class Chaotic(Pair):
    """Magnifies what rounding does beyond all measure."""

    def forward(self, x):
        return torch.sin(1e9 * x * self.scale * 1.1)


def test_a_model_of_nothing_but_rounding_proves_nothing():
    x = torch.linspace(0.1, 0.9, 8).view(4, 2)
    made = Chaotic()(x).detach()
    with pytest.raises(ExportError, match="differs from the pruned model"):
        agreement(Chaotic(), x, 4, (made + 0.05 * made.abs().max(),), "it", half=False)


def test_a_model_that_answers_always_alike_is_warned_of(tmp_path):
    result = prune("test_vit", "magnitude", 0.3, weights="random", timed=False)
    assert export(result, "hub-folder", tmp_path / "alive").warnings == ()
    with torch.no_grad():
        result.model.head.weight.zero_()
    found = export(result, "hub-folder", tmp_path / "constant")
    assert "returns the same for different inputs" in found.warnings[0]


def test_half_precision_and_int8_are_near(tmp_path):
    result = prune("vit_micro", "magnitude", 0.3, timed=False)
    data = open_data("fashion-mnist-mini", result.model)
    own = tuple(
        TensorDataset(*next(iter(batches(images, 300)))) for images in (data.calibration, data.test)
    )
    half = export(result, "onnx", tmp_path / "half", precision="fp16", timed=False)
    assert half.precision == "float16"
    assert 1e-6 < half.proofs[1].difference < 0.02 * half.proofs[1].scale
    small = export(
        result, "onnx", tmp_path / "int8", quantize="int8", data=own, calibration=64, timed=False
    )
    assert small.files["model.onnx"] < half.files["model.onnx"] < sum(
        2 * p.numel() for p in result.model.parameters()
    ) + 5e5  # fmt: skip
    assert small.top1["before"] == pytest.approx(accuracy(result.model, batches(own[1], 100))[0])
    assert abs(small.top1["before"] - small.top1["after"]) < 5
    x = own[1].tensors[0]
    floats = result.model(x).detach().numpy()
    apart = np.abs(onnxruntime_says(tmp_path / "int8" / "model.onnx", x) - floats)
    assert 0.01 < apart.mean() < 0.5


class Fixed(nn.Module):
    """Works for one batch size only, and returns several tensors."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x, scale):
        hidden = self.up(x).relu() * scale
        if len(x) != 1:
            raise ValueError("one at a time")
        return {"logits": self.down(hidden), "norm": x.norm()}


@pytest.mark.parametrize("to", ["onnx", "torch-export", "hub-folder"])
def test_models_of_ones_own_with_several_inputs_and_a_fixed_batch(tmp_path, to):
    model, example = Fixed(), {"x": torch.randn(1, 8), "scale": torch.ones(1, 1)}
    prune(model, "magnitude", 0.3, example_input=example, timed=False).save(tmp_path / "own")
    found = export(tmp_path / "own", to, tmp_path / "out", model=model, example_input=example)
    assert [proof.batch for proof in found.proofs] == [1]
    assert to == "hub-folder" or "one at a time" in found.fixed_batch
    if to == "hub-folder":
        again = load(tmp_path / "out", model=model, example_input=example)
        assert again.up.out_features < 32
        card = (tmp_path / "out" / "README.md").read_text()
        assert "model=original" in card
        assert "prunekit run" not in card


@pytest.mark.parametrize("to", ["onnx", "torch-export", "hub-folder"])
def test_a_result_knows_its_own_model_and_its_inputs(tmp_path, to):
    example = (torch.randn(1, 8), torch.ones(1, 1))
    result = prune(Fixed(), "magnitude", 0.3, example_input=example, timed=False)
    assert export(result, to, tmp_path / "out").proofs[0].holds


class Undecided(nn.Module):
    """Decides by what it computes, which torch.export cannot follow."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        hidden = self.up(x).relu()
        return self.down(hidden if hidden.sum().item() > -1 else -hidden)


@pytest.mark.filterwarnings("ignore:.*does not run without values")
def test_a_model_that_cannot_be_followed_gets_a_sentence_and_nothing_else(tmp_path, capfd):
    result = prune(Undecided(), "magnitude", 0.3, example_input=torch.randn(2, 8), timed=False)
    capfd.readouterr()
    with pytest.raises(ExportError, match=r"torch.export cannot follow Undecided .* hub-folder"):
        export(result, "torch-export", tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert export(result, "hub-folder", tmp_path / "out").proofs  # the advice works


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "onxx"}, "No target is called 'onxx'. Did you mean 'onnx'"),
        ({"to": "timm", "precision": "fp16"}, "precision and quantize are for onnx"),
        ({"to": "onnx", "quantize": "int4"}, "quantize is 'int4'; expected int8"),
        ({"to": "onnx", "quantize": "int8", "precision": "fp16"}, "exclude each other"),
        ({"to": "onnx", "quantize": "int8", "calibration": 0}, "expected 1 image or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(tmp_path, options, sentence):
    with pytest.raises(ExportError, match=sentence):
        export(tmp_path / "nowhere", **options)


def test_int8_without_images_is_refused_before_anything_is_exported(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "write", None)
    with pytest.raises(prunekit.PruneError, match="was made without data; name some"):
        export(saved / "vit", "onnx", tmp_path / "out", quantize="int8")


def test_int8_is_calibrated_on_a_folder_without_labels(saved, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    found = export(
        saved / "cnn", "onnx", tmp_path / "out", quantize="int8", data=str(tmp_path / "images"),
        timed=False,
    )  # fmt: skip
    assert found.quantized == "int8"
    assert found.top1 == {}
    assert found.warnings[0].startswith("Did not measure what int8 costs: ")


def test_a_package_that_cannot_be_imported_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ExportError, match=r"needs onnxruntime, which cannot be imported \(.*\[export"
    ):
        export(tmp_path / "nowhere", "onnx")


@pytest.mark.parametrize("inside", [".", "deeper"])
def test_nothing_is_exported_into_the_artifact(saved, inside):
    before = sorted((saved / "vit").iterdir())
    with pytest.raises(ExportError, match="lies in the artifact"):
        export(saved / "vit", "hub-folder", saved / "vit" / inside)
    assert sorted((saved / "vit").iterdir()) == before


def test_a_directory_of_something_else_is_not_replaced(saved, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ArtifactError, match="holds"):
        export(saved / "vit", "hub-folder", tmp_path)
    export(saved / "vit", "hub-folder", tmp_path / "out")
    export(saved / "vit", "hub-folder", tmp_path / "out")  # its own is
    assert (tmp_path / "mine").read_text() == "precious"
    (tmp_path / "out" / "notes").write_text("mine too")
    with pytest.raises(ArtifactError, match="holds"):
        export(saved / "vit", "hub-folder", tmp_path / "out")


def test_the_command_line_exports(saved, capsys):
    assert main(["export", str(saved / "uniform"), "--to", "timm"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "test_vit exported to timm, float32" in printed
    assert "proof differs from the pruned model by 0.0e+00 at batch 3" in printed
    assert (saved / "uniform-timm" / "config.json").exists()
    assert main(["export", str(saved / "vit"), "--to", "timm"]) == 2
    assert capsys.readouterr().err.startswith("prunekit: timm's VisionTransformer cannot say")


def test_ratios_give_whole_sizes_back():
    for hidden in range(8, 400, 8):
        ratio = timm_words._ratio([(hidden, 96)])
        assert int(96 * ratio) == hidden
