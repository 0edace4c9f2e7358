"""What has to hold on a GPU, and holds on the CPU: `pytest -m cuda`.

Without a GPU, `PRUNEKIT_TEST_DEVICE=cpu pytest -m cuda` runs all but what only a GPU can do.
"""

from __future__ import annotations

import math

import pytest
import timm
import torch
from conftest import CUDA, FAMILIES, TOYS, toy, write_digits

from prunekit import Recipe, finetune, load, prune, to_semi_structured
from prunekit.artifact import masks_of
from prunekit.cli import main
from prunekit.criteria import CRITERIA
from prunekit.inputs import zoo
from prunekit.measuring.latency import latency
from prunekit.measuring.memory import peak_bytes
from prunekit.repairs import REPAIRS
from prunekit.testing import example_layer
from prunekit.weights.semistructured import is_2_to_4, supported

pytestmark = pytest.mark.cuda
FEW = 32  # calibration images
SPARSE = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
needs_sparse = pytest.mark.skipif(
    not supported(), reason="needs a CUDA device with sparse tensor cores"
)


@pytest.fixture(autouse=True)
def exact():
    """Compute in full float32, so that figures of two devices can be compared."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    pytest.importorskip("sklearn")
    return str(write_digits(tmp_path_factory.mktemp("digits")))


def devices(model):
    """Return where the parameters and buffers of a model are."""
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


def on_both(*args, **options):
    """Prune on the CPU and on the device."""
    return (prune(*args, device=device, **options) for device in ("cpu", CUDA))


def assert_near(found, expected, tolerance):
    """Compare values to a fraction of the largest, since small ones are sums that cancel."""
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


# -- pruning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", zoo.names())
def test_a_model_is_pruned_on_the_device_stays_there_and_is_saved(arch, tmp_path):
    result = prune(arch, "dimap", 0.5, device=CUDA)
    assert result.parity.holds
    assert result.got == pytest.approx(0.5, abs=0.02)
    assert devices(result.model) == {CUDA}
    assert result.recipe["device"].startswith(CUDA)

    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small")

    assert devices(loaded) == {"cpu"}
    image = torch.randn(2, *zoo.card(arch)["input_size"])
    with torch.inference_mode():
        assert_near(result.model(image.to(CUDA)).cpu(), loaded(image), 1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_a_model_of_ones_own_stays_on_its_device(name):
    model, images = toy(name)
    result = prune(model.to(CUDA), "magnitude", 0.3, multiple=1, example_input=images)
    assert result.parity.holds
    assert devices(result.model) == devices(model) == {CUDA}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_is_kept(name, dtype, tmp_path):
    model, images = toy(name)
    model.to(CUDA, dtype)
    result = prune(model, "dimap", 0.3, multiple=1, example_input=images)
    assert result.parity.holds
    assert {p.dtype for p in result.model.parameters()} == {dtype}

    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small", model=model, example_input=images)

    assert {p.dtype for p in loaded.parameters()} == {dtype}
    with torch.inference_mode():
        found, again = (m.to(CUDA)(images.to(CUDA, dtype)) for m in (result.model, loaded))
    assert found.isfinite().all()
    torch.testing.assert_close(again, found)


@pytest.mark.parametrize("arch", zoo.names())
def test_parity_holds_where_tensor_float_32_is_allowed(arch):
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    assert prune(arch, "magnitude", 0.5, device=CUDA).parity.holds


def test_rounds_with_training_stay_on_the_device(digits):
    recipe = Recipe(epochs=1, batch_size=16, precision="bf16", distill=True)
    result = prune("vit_micro", "taylor", 0.5, steps=2, finetune=recipe, data=digits, device=CUDA)
    assert devices(result.model) == {CUDA}
    assert [one.trained.device for one in result.rounds] == [CUDA, CUDA]
    assert all(one.parity.holds for one in result.rounds)


def test_the_command_line_takes_the_device(digits, tmp_path, capsys):
    command = ["run", "--arch", "vit_micro", "--data", digits, "--device", CUDA]
    assert main([*command, "--out", str(tmp_path / "small")]) == 0
    assert f"on {CUDA} (" in capsys.readouterr().out.replace("\n", " ")
    assert devices(load(tmp_path / "small")) == {"cpu"}


# -- criteria and repairs give what they give on the CPU --------------------------------------


@pytest.mark.parametrize("name", CRITERIA.builtin_names())
@pytest.mark.parametrize("arch", zoo.names())
def test_criteria_score_as_on_the_cpu(arch, name):
    expected, found = (result.scores for result in on_both(arch, name, calibration=FEW))
    assert expected.keys() == found.keys()
    for axis, score in expected.items():
        assert_near(found[axis], score, 1e-3)


@pytest.mark.parametrize("arch", zoo.names())
def test_single_weights_are_chosen_as_on_the_cpu(arch):
    on_cpu, on_device = on_both(arch, "magnitude", 0.5, granularity="weight")
    assert devices(on_device.model) == {CUDA}
    for name, kept in on_cpu.masks.kept.items():
        assert torch.equal(on_device.masks.kept[name].cpu(), kept.cpu())


@pytest.mark.parametrize("name", [n for n in REPAIRS.builtin_names() if n != "recalibrate"])
def test_repairs_solve_as_on_the_cpu(name):
    layer = example_layer()
    moved = _moved(layer)
    for found, expected in zip(REPAIRS.get(name)(moved), REPAIRS.get(name)(layer), strict=True):
        assert found.device.type == CUDA
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("arch", zoo.names())
def test_lstsq_repairs_as_well_as_on_the_cpu(arch):
    options = {"repair": "lstsq", "calibration": 2 * FEW}
    if arch in ("swin_micro", "vit_micro"):
        options["axes"] = ("mlp", "head_dim")
    on_cpu, on_device = on_both(arch, "magnitude", 0.5, **options)
    assert on_cpu.plan == on_device.plan
    assert devices(on_device.model) == {CUDA}
    expected, found = (result.rounds[0].repaired for result in (on_cpu, on_device))
    assert expected.keys() == found.keys()
    for layer, error in expected.items():
        assert found[layer].before == pytest.approx(error.before, rel=0.02, abs=1e-4)
        # Two ridges that are all but equally good may change places, from where errors differ.
        assert found[layer].after == pytest.approx(error.after, rel=0.1, abs=1e-3)


def _moved(layer):
    """Return a layer, and its halves, on the device."""
    from dataclasses import fields, replace

    values = {entry.name: getattr(layer, entry.name) for entry in fields(layer)}
    tensors = {k: v.to(CUDA) for k, v in values.items() if isinstance(v, torch.Tensor)}
    return replace(layer, **tensors, halves=tuple(map(_moved, layer.halves)))


# -- measuring --------------------------------------------------------------------------------


def test_a_run_is_measured_on_the_device(digits):
    on_cpu, on_device = on_both("vit_micro", "dimap", 0.5, data=digits, evaluate=True)
    for expected, found in ((on_cpu.before, on_device.before), (on_cpu.after, on_device.after)):
        assert (found.params, found.macs) == (expected.params, expected.macs)
        assert all(0 < t.low <= t.median <= t.high for t in found.latency_ms.values())
        assert found.memory_bytes > 0
        assert found.top1 == pytest.approx(expected.top1, abs=5)  # one of 20 images


def test_memory_counts_what_the_work_needs_and_not_the_model():
    model = torch.nn.Linear(1024, 1024).to(CUDA)
    found = peak_bytes(lambda: torch.empty(2**20, device=CUDA), model)
    assert found == pytest.approx(4 * 2**20, rel=0.01)


@pytest.mark.skipif(CUDA != "cuda", reason="only work on a GPU goes on after a call returns")
def test_latency_waits_for_the_device():
    class Busy(torch.nn.Module):
        def __init__(self, products):
            super().__init__()
            self.products = products
            self.weight = torch.nn.Parameter(torch.randn(4096, 4096) / 64)

        def forward(self, x):
            for _ in range(self.products):
                x = x @ self.weight
            return x

    models = [Busy(4).to(CUDA), Busy(32).to(CUDA)]
    short, long = latency(models, torch.randn(1, 4096), 4096)
    # Eight times the work; without waiting both would take the time of a launch or two.
    assert long.median > 4 * short.median


def test_a_pruned_model_compiles_and_computes_the_same():
    model = prune("vit_micro", "dimap", 0.5, device=CUDA).model
    image = torch.randn(2, 1, 28, 28, device=CUDA)
    compiled = torch.compile(model, backend="inductor" if CUDA == "cuda" else "aot_eager")
    with torch.inference_mode():
        assert_near(compiled(image), model(image), 1e-4)


# -- training ---------------------------------------------------------------------------------


def test_a_pruned_model_is_fine_tuned_in_bfloat16(digits, tmp_path):
    prune("vit_micro", "magnitude", 0.6, device=CUDA).save(tmp_path / "small")
    overrides = {"epochs": 1, "batch_size": 16, "precision": "bf16", "distill": True}
    tuned = finetune(tmp_path / "small", data=digits, overrides=overrides, device=CUDA)
    assert tuned.trained.device == CUDA
    assert len(tuned.trained.history) == 1
    assert math.isfinite(tuned.trained.history[0].train_loss)
    assert devices(tuned.model) == {CUDA}
    weights, loaded = tuned.model.state_dict(), load(tuned.directory).state_dict()
    assert all(torch.equal(weights[name].cpu(), loaded[name]) for name in loaded)
    assert next(tuned.model.parameters()).dtype == torch.float32


def test_training_on_the_device_keeps_zeros(digits, tmp_path):
    prune("vit_micro", "magnitude", granularity="2:4", device=CUDA).save(tmp_path / "masked")
    overrides = {"epochs": 1, "batch_size": 16, "precision": "bf16"}
    tuned = finetune(tmp_path / "masked", data=digits, overrides=overrides, device=CUDA)
    masks = masks_of(tuned.directory, tuned.model)
    assert masks
    assert all(is_2_to_4(tuned.model.get_parameter(name).cpu()) for name in masks)


# -- semi-structured tensors ------------------------------------------------------------------


@needs_sparse
@pytest.mark.parametrize("batch", [1, 2])  # 197 rows of tokens are no multiple of 8
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SPARSE)
def test_semi_structured_tensors_compute_what_the_masked_model_does(name, dtype, batch):
    torch.manual_seed(0)
    dense = timm.create_model(name, num_classes=10).eval().to(CUDA)
    exclude = ["*conv_dw*"] if name.startswith("convnext") else []
    masked = prune(dense, "magnitude", granularity="2:4", exclude=exclude).model.to(dtype)
    fast = to_semi_structured(masked)
    image = torch.randn(batch, 3, 224, 224, device=CUDA, dtype=dtype)
    with torch.inference_mode():
        expected, found = masked(image), fast(image)
    # Sums in another order, rounded to 8 or 11 bits in every layer.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
