"""The worked example of docs/own_adapter.md runs, and obeys the law of the house."""

import configparser
import re
import types
from pathlib import Path

import pytest
import torch
from pages import blocks, own_plugins, run

from prunekit import Adapter, prune
from prunekit.registry import Registry
from prunekit.testing import adapter_checks

PAGE = Path(__file__).parents[1] / "docs" / "own_adapter.md"
INPUT = (3, 32, 32)
KINDS = [("mlp",), ("token_mlp",), ("width",), ("mlp", "token_mlp", "width")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return what the page's Python defines, run from top to bottom."""
    assert len(blocks(PAGE, "python")) == 3
    with own_plugins():
        names = run(PAGE, tmp_path_factory.mktemp("page"))
        yield types.SimpleNamespace(**names, text=PAGE.read_text())


@pytest.fixture
def mixer(page):
    """Return a small Mixer whose every parameter is random, biases and norms too."""
    torch.manual_seed(1)
    model = page.MlpMixer(
        num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=32, mlp_ratio=(1.5, 3.0)
    ).eval()
    model.pretrained_cfg = {"input_size": INPUT}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("ratio", [0.25, 0.6])
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_removing_equals_masking_on_a_mixer(page, mixer, kinds, ratio):
    image = torch.randn(2, *INPUT)
    expected = mixer(image)

    result = prune(mixer, "magnitude", ratio, by="slices", axes=kinds, adapter=page.Mixer())

    assert result.parity.scale > 1e-2  # the check was able to fail
    assert result.parity.difference < 1e-5 * result.parity.scale
    small = result.model(image)
    assert small.shape == expected.shape
    assert (small - expected).abs().max() > 1e-3  # something was removed
    assert torch.equal(mixer(image), expected)  # the caller's model stays whole


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_the_shapes_of_a_mixer_shrink(page, mixer, kinds):
    result = prune(mixer, "magnitude", 0.5, by="slices", axes=kinds, adapter=page.Mixer())

    left = {name: len(kept) for name, kept in result.plan.kept.items()}
    width = left.get("width", 32)
    assert (width < 32) == ("width" in kinds)
    model = result.model
    assert model.embed_dim == model.num_features == model.feature_info[0]["num_chs"] == width
    assert tuple(model.head.weight.shape) == (10, width)
    for n, block in enumerate(model.blocks):
        channels = left.get(f"blocks.{n}.mlp_channels", 96)
        tokens = left.get(f"blocks.{n}.mlp_tokens", 48)
        assert tuple(block.mlp_channels.fc1.weight.shape) == (channels, width)
        assert tuple(block.mlp_tokens.fc1.weight.shape) == (tokens, 16)
        assert tuple(block.mlp_tokens.fc2.weight.shape) == (16, tokens)
        assert block.mlp_tokens.fc1.out_features == tokens
        assert block.norm1.normalized_shape == (width,)


def test_the_page_prunes_what_it_says(page):
    assert page.result.got == pytest.approx(0.4, abs=0.02)
    assert page.result.parity.holds
    assert set(page.result.kinds.values()) == {"mlp", "token_mlp"}
    assert page.narrow.recipe["adapter"] == "mixer"  # found by registration
    assert page.narrow.model.embed_dim < 48


def test_the_page_prunes_a_model_that_is_not_timms(page):
    out = page.small.model(torch.randn(4, 7, 12))

    assert out.shape == (4, 7, 5)
    assert page.small.parity.holds
    assert page.small.model.embed.out_features < 32
    assert page.small.model.up.out_features < 64


def test_a_pruned_mixer_can_get_another_classifier(page, mixer):
    small = prune(mixer, "magnitude", 0.5, by="slices", axes=["width"], adapter=page.Mixer()).model

    small.reset_classifier(4)

    assert small(torch.randn(1, *INPUT)).shape == (1, 4)


def test_the_page_packages_an_adapter_that_is_found(page, tmp_path, monkeypatch):
    (ini,) = re.findall(r"^```ini\n(.*?)^```$", page.text, re.DOTALL | re.MULTILINE)
    declared = configparser.ConfigParser()
    declared.read_string(ini)
    ((group, entries),) = declared["options.entry_points"].items()
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries.strip()}\n")
    (tmp_path / "my_package").mkdir()
    source = re.search(r"^```python\n(.*?)^```$", page.text, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "my_package" / "mixer.py").write_text(f"{source}\n\nmixer = Mixer()\n")
    monkeypatch.syspath_prepend(tmp_path)

    found = Registry("adapter", group="prunekit.adapters", builtin={}).get("mixer")

    assert isinstance(found, Adapter)
    assert found.aliases == page.Mixer.aliases


def test_the_adapter_keeps_the_contract(page, mixer):
    for check in adapter_checks(page.Mixer(), mixer, torch.randn(2, *INPUT)):
        check()
