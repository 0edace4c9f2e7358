"""Vision models of the transformers library, built from their configurations."""

from __future__ import annotations

import oracle
import pytest
import torch

from prunekit import load, prune

transformers = pytest.importorskip("transformers")

VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 32,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
CONVNEXT = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
SEGFORMER = {
    "hidden_sizes": [32, 64, 64, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
    "decoder_hidden_size": 64,
}
BIT = {
    "image_size": 72,  # so that no side of a feature map is as long as a channel dimension
    "embedding_size": 16,
    "hidden_sizes": [64, 128],
    "depths": [1, 2],
    "num_groups": 2,
}
TASKS = {  # a class, what its configuration is told, and the kinds that are found in it
    "ViTForImageClassification": (VIT, {"head", "mlp"}),
    "DeiTForImageClassificationWithTeacher": (VIT, {"head", "mlp"}),
    "SwinForImageClassification": (SWIN, {"head", "mlp"}),
    "Swinv2ForImageClassification": (SWIN, {"head", "mlp"}),
    "BeitForImageClassification": ({**VIT, "use_relative_position_bias": True}, {"head", "mlp"}),
    "Dinov2ForImageClassification": (VIT, {"head", "mlp"}),
    "ConvNextForImageClassification": (CONVNEXT, {"mlp"}),
    "BitForImageClassification": (BIT, {"conv"}),
    "SegformerForSemanticSegmentation": (SEGFORMER, {"head", "mlp", "conv"}),
    "SiglipVisionModel": (VIT, {"head", "mlp"}),
    "CLIPVisionModelWithProjection": (VIT, {"head", "mlp"}),
}


def built(name, **options):
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    config = cls.config_class(**{**TASKS[name][0], **options})
    return cls(config).eval()


def images(model, count=1):
    size = getattr(model.config, "image_size", 64)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def first(output):
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


@pytest.mark.parametrize("name", TASKS)
def test_a_family_is_pruned_exactly_loaded_and_trained(name, tmp_path):
    model = oracle.vary_(built(name))
    x = images(model)
    inputs = {"pixel_values": x}
    kinds = tuple(TASKS[name][1])
    result = prune(model, "magnitude", 0.3, axes=kinds, example_input=inputs, multiple=1)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    assert set(result.kinds.values()) == set(kinds)
    wanted, found = (
        first(output)
        for output in (oracle.expected(oracle.plain(model), result.model, x), result.model(x))
    )
    assert (wanted - found).abs().max() <= 1e-5 * wanted.abs().max()
    result.save(tmp_path / "small")
    small = load(tmp_path / "small", model=built(name), example_input=inputs)
    assert torch.equal(first(small(x)), found)
    first(small.train()(images(model, 2))).square().sum().backward()


def test_what_transformers_makes_of_images_is_an_input():
    """A processor returns a mapping that is no dictionary."""
    model = built("ViTForImageClassification")
    fed = transformers.BatchFeature({"pixel_values": images(model, 2)})
    assert prune(model, "magnitude", 0.3, example_input=fed, multiple=1).parity.holds


@pytest.mark.parametrize("criterion", ["wanda", "taylor"])
def test_a_classifier_of_transformers_learns_and_is_evaluated(criterion):
    model = built("ViTForImageClassification", num_labels=10)
    result = prune(
        model,
        criterion,
        0.3,
        repair="lstsq",
        example_input=images(model),
        data="fashion-mnist-mini",
        calibration=32,
        evaluate=True,
        timed=False,
    )
    assert result.parity.holds
    assert result.rounds[0].repaired
    assert result.after.images


def test_the_backbone_of_a_model_of_transformers_is_a_part():
    model = built("SwinForImageClassification")
    result = prune(model, "dimap", 0.3, at="swin", example_input=images(model), multiple=1)
    assert result.parity.holds
    assert all(name.startswith("swin.") for name in result.plan.kept)
