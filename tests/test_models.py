"""Architecture names and weights: pretrained, random, from a file, or a clear refusal."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from prunekit.errors import RegistryError, RequestError, WeightsError
from prunekit.inputs.architectures import Architecture, aliases, build, is_known, resolve
from prunekit.inputs.zoo import card, names


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Make an empty model cache, and cut the network off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    """Fail if anything looks up the name of a machine."""

    def refuse(*args, **_):
        pytest.fail(f"looked up {args}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


def test_every_alias_is_a_model_that_timm_has():
    assert len(aliases()) > 10
    assert all(timm.is_model(name) for name in aliases().values())


@pytest.mark.parametrize("name", names())
def test_every_card_of_the_zoo_is_true(name):
    built = build(name)
    assert built.weights == "zoo"
    assert sum(p.numel() for p in built.model.parameters()) == card(name)["params"] < 1.5e6
    assert {"class", "args", "data", "recipe", "seed", "test_top1", "versions"} <= set(card(name))


def test_a_typo_earns_a_suggestion():
    with pytest.raises(RegistryError, match="Did you mean 'swin_micro'"):
        resolve("swin_mikro")


@pytest.mark.parametrize("name", ["hf-hub:timm/vit_tiny", "hf_hub:x/y", "local-dir:/tmp/x", "a:b"])
def test_only_names_that_timm_registers_are_built(name, no_network):
    with pytest.raises(RegistryError, match=f"'{name}', but only names that timm .* --weights"):
        build(name, "random")
    assert not is_known(name)


def test_a_tag_that_timm_does_not_know_earns_a_suggestion():
    with pytest.raises(RegistryError, match=r"Did you mean 'vit_tiny_patch16_224\.augreg_in21k'"):
        resolve("vit_tiny_patch16_224.augreg_in21")
    assert not is_known("vit_tiny_patch16_224.pruned")  # so it may be a saved model
    assert resolve("vit_tiny_patch16_224.augreg_in21k").build().num_classes == 21843


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "vit_evil", "", None, 5, ["vit_ti"]])
def test_a_stored_architecture_builds_registered_names_only(name, no_network):
    with pytest.raises(RegistryError):
        Architecture("vit_ti", timm=name).build()


@pytest.mark.parametrize(
    "args", [{"pretrained": True}, {"checkpoint_path": "x.pth"}, {"pretrained_cfg": {"file": "x"}}]
)
def test_a_stored_architecture_is_told_nothing_that_fetches_weights(args, no_network):
    with pytest.raises(RequestError, match=f"vit_ti is built with {next(iter(args))}; expected"):
        Architecture("vit_ti", timm="vit_tiny_patch16_224", args=args).build()


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (build("vit_ti", "random", seed).model.blocks[0] for seed in (1, 1, 2))
    assert torch.equal(first.attn.qkv.weight, again.attn.qkv.weight)
    assert not torch.equal(first.attn.qkv.weight, other.attn.qkv.weight)


def test_building_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build("vit_ti", "random", seed=9)
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture
def cached(hub):
    """Put the weights of a small model into the cache, and return it."""
    model = timm.create_model("vit_tiny_patch16_224")
    repository = model.pretrained_cfg["hf_hub_id"].replace("/", "--")
    snapshot = hub / f"models--{repository}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (hub / f"models--{repository}" / "refs").mkdir()
    (hub / f"models--{repository}" / "refs" / "main").write_text("0")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


def test_pretrained_weights_are_taken_from_the_cache(cached):
    for weights in ("auto", "pretrained"):
        built = build("vit_ti", weights)
        assert built.weights == "pretrained"
        assert built.warnings == ()
        assert torch.equal(built.model.pos_embed, cached.pos_embed)
        assert torch.equal(built.model.head.weight, cached.head.weight)


def test_a_classifier_that_is_not_pretrained_is_said_and_is_the_same_for_every_seed(cached):
    torch.manual_seed(3)
    first = build("vit_ti", "pretrained", 1, {"num_classes": 5})
    torch.manual_seed(4)
    second = build("vit_ti", "pretrained", 2, {"num_classes": 5})
    assert first.warnings == second.warnings
    assert "RANDOM WEIGHTS in the classifier" in first.warnings[0]
    assert "for 1,000 classes, not 5" in first.warnings[0]
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert torch.equal(first.model.pos_embed, cached.pos_embed)


@pytest.mark.parametrize("classes", [0, 1000])
def test_pretrained_weights_without_a_random_classifier_come_without_a_warning(cached, classes):
    assert build("vit_ti", "pretrained", args={"num_classes": classes}).warnings == ()


def test_pretrained_weights_leave_the_callers_random_state_alone(cached):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build("vit_ti", "pretrained", args={"num_classes": 5})
    assert torch.equal(torch.rand(1), expected)


def test_without_pretrained_weights_auto_warns_and_pretrained_refuses(hub):
    built = build("vit_ti", "auto")
    assert built.weights == "random"
    assert built.warnings[0].startswith("RANDOM WEIGHTS")
    with pytest.raises(WeightsError, match="No pretrained weights of vit_tiny_patch16_224"):
        build("vit_ti", "pretrained")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_checkpoints_are_read_from_files(tmp_path, wrap):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pth")
    built = build("vit_ti", str(tmp_path / "weights.pth"))
    assert built.model.num_classes == 7
    assert built.architecture.args == {"num_classes": 7}
    assert torch.equal(built.model.head.weight, model.head.weight)


def test_weights_of_another_shape_are_named(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", embed_dim=96).state_dict()
    save_file(state, tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError, match=r"cls_token is \(1, 1, 96\), expected \(1, 1, 192\)"):
        build("vit_ti", str(tmp_path / "narrow.safetensors"))


def test_a_file_that_holds_no_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "log.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        build("vit_ti", str(tmp_path / "log.pth"))
