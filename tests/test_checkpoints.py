"""Weights files as people have them: which are read, what of them, and how others are refused.

Where a sentence gives advice, the test follows it.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from prunekit.engine import prune
from prunekit.errors import PruneError
from prunekit.inputs.architectures import Architecture, Built, build
from prunekit.inputs.checkpoints import NESTS, read_checkpoint
from prunekit.inputs.prefixes import PREFIXES

ARCH, CLASSES = "test_vit", 7


@cache
def model(arch: str = ARCH, **args: int) -> nn.Module:
    """Return a small model of timm's, none of whose weights is trivial; not to be modified."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = timm.create_model(arch, **{"num_classes": CLASSES, **args})
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def state(arch: str = ARCH, **args: int) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model(arch, **args).state_dict().items()}


def other() -> dict[str, torch.Tensor]:
    """Return weights that fit as well, but are not those to take."""
    return {name: torch.zeros_like(tensor) for name, tensor in state().items()}


@pytest.fixture
def saved(tmp_path):
    """Save something with torch.save, or as safetensors, and return where."""

    def save(content: object, name: str = "weights.pth", **options: object) -> str:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path, **options)
        return str(path)

    return save


def agrees(built: Built, expected: dict[str, torch.Tensor]) -> bool:
    own = built.model.state_dict()
    return own.keys() == expected.keys() and all(torch.equal(own[n], expected[n]) for n in own)


def refusal(file: str, arch: str = ARCH, **args: object) -> str:
    """Return the one printable sentence that refuses a file."""
    with pytest.raises(PruneError) as caught:
        build(arch, file, args=args)
    said = str(caught.value)
    assert said.isprintable(), "it goes to a terminal, on one line"
    assert len(said) < 500 + len(file)
    return said


class TestNests:
    """Where in a file the weights are."""

    @pytest.mark.parametrize("nest", NESTS)
    def test_every_usual_nest_is_opened(self, saved, nest):
        assert agrees(build(ARCH, saved({nest: state(), "epoch": 3})), state())

    @pytest.mark.parametrize(
        ("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")]
    )
    def test_averaged_weights_are_taken_as_by_timm_and_it_is_said(self, saved, plain, averaged):
        file = saved({plain: other(), averaged: state(), "optimizer": {"state": {}}})
        built = build(ARCH, file)
        assert agrees(built, timm.models.load_state_dict(file))
        assert agrees(built, state())
        assert built.warnings == (f"Took the EMA weights ({averaged}) of {file}.",)

    def test_what_was_taken_reaches_the_report(self, saved):
        file = saved({"state_dict": other(), "state_dict_ema": state()})
        result = prune(ARCH, "magnitude", 0.3, weights=file, num_classes=0)
        assert result.warnings[:2] == (
            f"Took the EMA weights (state_dict_ema) of {file}.",
            f"Left out the classifier of {file}, which is for 7 classes.",
        )

    def test_an_average_that_was_not_kept_is_passed_over(self, saved):
        built = build(ARCH, saved({"state_dict": state(), "state_dict_ema": None}))
        assert agrees(built, state())
        assert built.warnings == ()

    def test_a_choice_between_other_weights_is_said(self, saved):
        file = saved({"student": other(), "teacher": state()})
        built = build(ARCH, file)
        assert agrees(built, state())
        expected = f"Took the weights under 'teacher' of {file}, not those under 'student'."
        assert built.warnings == (expected,)

    def test_nests_in_nests_are_opened_to_a_depth(self, saved):
        assert agrees(build(ARCH, saved({"model": {"state_dict": state()}})), state())
        endless: dict[str, object] = {}
        endless["model"] = endless
        assert "holds no state dict" in refusal(saved(endless))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"epoch": 3}, "since 'epoch' is of type int"),
            ({1: torch.zeros(2)}, "since 1 is of type Tensor"),
            ([1, 2], "but a list"),
            ({}, "but an empty one"),
            ({"\x1b[31mred": 3}, r"since '\x1b[31mred' is of type int"),
        ],
    )
    def test_what_is_no_state_dict_is_said(self, saved, content, expected):
        said = refusal(saved(content))
        assert "holds no state dict" in said
        assert expected in said

    def test_the_command_line_of_a_training_run_is_read_over(self, saved):
        options = argparse.Namespace(model="deit_tiny", lr=1e-3, nested=argparse.Namespace(a=1))
        for old in (False, True):
            content = {"model": state(), "args": options, "epoch": 3}
            file = saved(content, _use_new_zipfile_serialization=not old)
            assert agrees(build(ARCH, file), state())
        with pytest.raises(Exception, match="Namespace was not an allowed global"):
            torch.load(file, weights_only=True)  # elsewhere it is as forbidden as before


class TestPrefixes:
    """What wrappers put before names."""

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize("prefix", [*PREFIXES, "_orig_mod.module.", "module.module.backbone."])
    def test_prefixes_are_stripped_alike_from_all_formats(self, saved, name, prefix):
        built = build(ARCH, saved({prefix + key: t for key, t in state().items()}, name))
        assert agrees(built, state())
        assert built.warnings == ()

    def test_other_parts_of_a_larger_model_are_left_out_and_it_is_said(self, saved):
        body = {f"encoder.{key}": t for key, t in state(num_classes=0).items()}
        file = saved({**body, "decoder.0.weight": torch.zeros(3), "decoder.0.bias": torch.zeros(3)})
        built = build(ARCH, file, args={"num_classes": 0})
        assert agrees(built, state(num_classes=0))
        assert built.warnings == (
            f"Left out 2 tensors of {file} that the model lacks (decoder.0.weight, "
            "decoder.0.bias).",
        )

    def test_the_weights_of_an_averaged_model_are_taken(self, saved):
        averaged = torch.optim.swa_utils.AveragedModel(model())
        built = build(ARCH, saved(averaged.state_dict()))
        assert agrees(built, state())
        assert "that the model lacks (n_averaged)" in built.warnings[0]

    def test_a_body_beside_a_head_that_the_model_has_too_is_not_guessed_at(self, saved):
        body = {f"backbone.{key}": t for key, t in state(num_classes=0).items()}
        file = saved({**body, "head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)})
        assert "called like backbone.cls_token" in refusal(file)
        assert agrees(build(ARCH, file, args={"num_classes": 0}), state(num_classes=0))

    def test_two_names_of_the_same_weights_are_refused(self, saved):
        zeros = {f"module.{key}": t for key, t in other().items()}
        said = refusal(saved({**state(), **zeros}))
        assert "holds both 'blocks.0.attn.proj.bias' and 'module.blocks.0.attn.proj.bias'" in said
        assert "save it again with one of them" in said
        assert agrees(build(ARCH, saved(state())), state())

    def test_names_of_another_manner_are_shown_beside_the_models(self, saved):
        file = saved({f"vit.{n}.w": torch.zeros(2) for n in range(90)})
        said = refusal(file)
        assert "its tensors are called like vit.0.w, vit.1.w, vit.2.w, ..." in said
        assert "the model's like cls_token, pos_embed, patch_embed.proj.weight, ..." in said
        assert "saved from timm's model of this name" in said

    def test_control_characters_in_names_do_not_reach_the_terminal(self, saved):
        refusal(saved({f"\x1b[2J\n{n}": torch.zeros(2) for n in range(90)}))
        said = refusal(saved({**state(), "\x1b[2J": torch.zeros(2)}))
        assert r"\x1b[2J is unexpected" in said


class TestClassifier:
    """Heads: other classes, none, or none wanted."""

    @pytest.mark.parametrize(
        "arch", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet"]
    )
    def test_the_number_of_classes_is_read_off_the_file(self, saved, arch):
        built = build(arch, saved(state(arch)))
        assert agrees(built, state(arch))
        assert built.model.num_classes == CLASSES
        assert built.architecture.args == {"num_classes": CLASSES}

    def test_it_is_read_off_both_classifiers_of_a_distilled_model(self, saved):
        arch = "deit_tiny_distilled_patch16_224"
        assert agrees(build(arch, saved(state(arch))), state(arch))

    def test_a_head_is_read_for_a_model_that_has_none_unless_told(self, saved):
        arch = "vit_small_patch14_dinov2"
        built = build(arch, saved(state(arch, img_size=28)), args={"img_size": 28})
        assert built.model.num_classes == CLASSES

    @pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
    def test_weights_without_a_classifier_are_taken_without_one(self, saved, arch):
        headless = state(arch, num_classes=0)
        file = saved(headless)
        for args in ({}, {"num_classes": CLASSES}):
            assert "have no classifier; add --num-classes 0" in refusal(file, arch, **args)
        built = build(arch, file, args={"num_classes": 0})
        assert agrees(built, headless)
        assert built.warnings == ()

    @pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
    def test_a_classifier_that_is_not_wanted_is_left_out_and_it_is_said(self, saved, arch):
        file = saved(state(arch))
        built = build(arch, file, args={"num_classes": 0})
        assert built.model.num_classes == 0
        left = {name: t for name, t in state(arch).items() if name in built.model.state_dict()}
        assert agrees(built, left)
        assert built.warnings == (f"Left out the classifier of {file}, which is for 7 classes.",)

    @pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
    def test_a_classifier_for_other_classes_is_drawn_anew_and_it_is_said(self, saved, arch):
        file = saved(state(arch))
        built, again = (build(arch, file, seed=seed, args={"num_classes": 5}) for seed in (0, 1))
        own = state(arch)
        head = {n for n, t in built.model.state_dict().items() if t.shape != own[n].shape}
        assert head
        for name, tensor in built.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name])  # whatever the seed
            assert name in head or torch.equal(tensor, own[name])
        (note,) = built.warnings
        assert note.startswith("RANDOM WEIGHTS in the classifier")
        assert note.endswith(f"those of {file} are for 7 classes, not 5.")
        assert agrees(build(arch, file, args={"num_classes": CLASSES}), own)

    def test_the_zoo_keeps_to_the_same_rules(self):
        other = build("vit_micro", args={"num_classes": 5})
        assert "those of vit_micro are for 10 classes, not 5" in other.warnings[0]
        built = build("vit_micro", args={"num_classes": 0})
        assert built.weights == "zoo"
        assert built.model.num_classes == 0
        assert built.warnings == ("Left out the classifier of vit_micro, which is for 10 classes.",)

    def test_a_huge_classifier_is_refused_before_anything_is_allocated(self, saved, monkeypatch):
        made = []
        build_ = Architecture.build
        monkeypatch.setattr(
            Architecture, "build", lambda self: made.append(build_(self)) or made[-1]
        )
        file = saved({**state(), "head.bias": torch.zeros(2**20)})
        assert "head.weight is (7, 64), expected (1048576, 64)" in refusal(file)
        assert made
        assert all(parameter.is_meta for model in made for parameter in model.parameters())

    def test_a_bias_of_fewer_values_than_it_claims_is_refused(self, saved):
        file = saved({**state(), "head.bias": torch.zeros(1).expand(2**40)})
        assert "head.bias of" in (said := refusal(file))
        assert "is expanded from fewer values" in said


class TestInputs:
    """Images of another size, or with other channels, than weights were made for."""

    @pytest.mark.parametrize(
        "arch", ["test_vit", "test_vit2", "test_coatnet", "deit_tiny_distilled_patch16_224"]
    )
    def test_the_size_that_weights_were_made_for_is_said_and_takes_them(self, saved, arch):
        expected = state(arch, img_size=96)
        file = saved(expected)
        said = refusal(file, arch)
        own = timm.get_pretrained_cfg(arch).input_size[1]
        assert f"of 96 x 96 pixels, expected {own} x {own}; add --img-size 96 to take" in said
        assert agrees(build(arch, file, args={"img_size": 96}), expected)
        if arch != "test_coatnet":  # whose tables timm has no way to resize
            assert f"or --img-size {own} to have them adapted as timm does" in said
            assert build(arch, file, args={"img_size": own}).warnings

    def test_images_need_not_be_square(self, saved):
        expected = state(img_size=(80, 80))
        file = saved(expected)
        assert "--img-size 80 " in refusal(file)
        assert agrees(build(ARCH, file, args={"img_size": 80}), expected)

    @pytest.mark.filterwarnings("ignore:torch.searchsorted|Using a non-tuple sequence")
    @pytest.mark.parametrize(
        ("arch", "made", "asked"),
        [
            ("test_vit", {"img_size": 96}, {"img_size": 160}),
            ("test_vit", {}, {"img_size": (96, 128)}),
            (
                "swin_tiny_patch4_window7_224",
                {"img_size": 112, "window_size": 4},
                {"img_size": 224},
            ),
            ("test_vit", {}, {"in_chans": 1}),
            ("test_convnext", {}, {"in_chans": 5}),
            ("test_vit", {"img_size": 96}, {"img_size": 160, "in_chans": 1, "num_classes": 0}),
        ],
    )
    def test_what_is_asked_for_is_adapted_as_timm_does(self, saved, arch, made, asked):
        """The same file is loaded by timm as if timm had published it."""
        file = saved(state(arch, **made))
        args = {"num_classes": CLASSES, **asked}
        built = build(arch, file, args=args)
        published = {"file": file, "num_classes": CLASSES, "custom_load": False, "hf_hub_id": None}
        expected = timm.create_model(
            arch, pretrained=True, pretrained_cfg_overlay=published, **args
        )
        assert agrees(built, expected.state_dict())
        said = " ".join(built.warnings)
        assert ("img_size" in asked) == ("Resized" in said)
        assert ("in_chans" in asked) == ("Turned" in said)

    def test_the_channels_that_weights_were_made_for_are_said_and_take_them(self, saved):
        for arch in ("test_vit", "test_convnext"):
            expected = state(arch, in_chans=1)
            file = saved(expected)
            assert "with 1 channel, expected 3; add --in-chans 1 to" in refusal(file, arch)
            assert agrees(build(arch, file, args={"in_chans": 1}), expected)

    def test_size_and_channels_are_said_together(self, saved):
        expected = state(img_size=96, in_chans=1)
        file = saved(expected)
        said = refusal(file)
        assert "of 96 x 96 pixels with 1 channel, expected 160 x 160 with 3" in said
        assert "add --img-size 96 --in-chans 1 to take them" in said
        assert agrees(build(ARCH, file, args={"img_size": 96, "in_chans": 1}), expected)

    def test_the_zoo_says_what_it_was_made_for(self):
        built = build("vit_micro", args={"img_size": 56})
        assert "Resized pos_embed of vit_micro to another image size" in built.warnings[0]
        assert build("vit_micro", args={"img_size": 28}).weights == "zoo"

    def test_other_misfits_get_no_such_advice(self, saved):
        said = refusal(saved(state("test_vit2")), "test_vit3")
        assert "name the architecture they were made for" in said
        assert "--img-size" not in said
        assert agrees(build("test_vit2", saved(state("test_vit2"))), state("test_vit2"))


def eight_bit(tensor):
    return (127 * tensor / tensor.abs().max()).to(torch.int8)


class TestTensors:
    """Tensors of other kinds than weights are made of."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    def test_all_floating_point_numbers_are_read_as_float32(self, saved, dtype, name):
        stored = {key: tensor.to(dtype) for key, tensor in state().items()}
        built = build(ARCH, saved(stored, name))
        assert agrees(built, {key: tensor.float() for key, tensor in stored.items()})
        assert {p.dtype for p in built.model.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        "convert", [eight_bit, lambda t: t > 0, lambda t: t.to(torch.complex64)]
    )
    def test_numbers_of_another_kind_are_refused(self, saved, convert):
        one = {**state(), "norm.weight": convert(state()["norm.weight"])}
        said = refusal(saved(one))
        kind = str(one["norm.weight"].dtype).removeprefix("torch.")
        assert f"norm.weight is {kind}, expected floating-point numbers as before" in said
        assert "more" not in said.partition(";")[0]

    @pytest.mark.parametrize(
        ("convert", "expected", "follow"),
        [
            (lambda t: t.to_sparse(), "is sparse; save tensor.to_dense()", lambda t: t.to_dense()),
            (lambda t: t.to_sparse_csr(), "is sparse", lambda t: t.to_dense()),
            (
                lambda t: t[0, 0].clone().expand_as(t),
                "is expanded from fewer",
                lambda t: t.contiguous(),
            ),
            (lambda t: torch.nested.nested_tensor([t[0], t[1]]), "is nested", None),
            (lambda t: t.to("meta"), "is without values (on the meta device)", None),
        ],
        ids=["coo", "csr", "expanded", "nested", "meta"],
    )
    @pytest.mark.filterwarnings("ignore")  # torch calls some of these unfinished
    def test_tensors_of_another_layout_are_refused(self, saved, convert, expected, follow):
        odd = {**state(), "head.weight": convert(state()["head.weight"])}
        said = refusal(saved(odd))
        assert f"head.weight of {saved(odd)!r} {expected}" in said
        if follow:
            odd["head.weight"] = follow(odd["head.weight"])
            assert agrees(build(ARCH, saved(odd)), odd)

    @pytest.mark.filterwarnings("ignore:.*quantiz.*")
    def test_quantised_tensors_are_refused(self, saved):
        quantised = torch.quantize_per_tensor(state()["head.weight"], 0.01, 0, torch.qint8)
        odd = {**state(), "head.weight": quantised}
        assert "head.weight of" in (said := refusal(saved(odd)))
        assert "is quantised; save tensor.dequantize()" in said
        odd["head.weight"] = quantised.dequantize()
        assert agrees(build(ARCH, saved(odd)), odd)

    def test_counters_need_not_be_floating_point(self, saved):
        assert agrees(build("test_resnet", saved(state("test_resnet"))), state("test_resnet"))

    def test_parameters_are_as_good_as_tensors(self, saved):
        assert agrees(build(ARCH, saved(dict(model().named_parameters()))), state())


class TestFiles:
    """Files of other kinds."""

    def test_a_missing_file_is_said(self, tmp_path):
        for file in (tmp_path / "none.pth", tmp_path / "none" / "none.pth"):
            assert "There is no weights file" in refusal(str(file))

    @pytest.mark.parametrize("name", ["x" * 300, "null\0byte"])
    def test_a_path_that_cannot_be_is_one_sentence(self, tmp_path, name):
        assert "is not a readable weights file" in refusal(str(tmp_path / name))

    def test_a_file_that_may_not_be_read_is_one_sentence(self, saved, monkeypatch):
        file = saved(state())

        def forbidden(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", forbidden)  # the tests may run as root
        assert "weights file: Permission denied; name a file that you may" in refusal(file)

    def test_of_a_directory_a_file_is_suggested(self, saved, tmp_path):
        assert "it is a directory without weights; name a file." in refusal(str(tmp_path))
        file = saved(state(), "epoch-3.pth")
        said = refusal(str(tmp_path))
        assert f"a directory with 1 weights files; name a file, such as {file!r}." in said
        assert agrees(build(ARCH, file), state())

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_of_a_folder_the_usual_name_is_taken(self, saved, tmp_path, name):
        saved(state(), name)
        saved(other(), "other.pth")
        assert agrees(build(ARCH, str(tmp_path)), state())


class TestParts:
    """Weights in several files, as the Hub and transformers lay them out."""

    @pytest.fixture
    def index(self, tmp_path):
        names = sorted(state())
        half = len(names) // 2
        files = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
        for file, own in files.items():
            save_file({name: state()[name] for name in own}, tmp_path / file)
        path = tmp_path / "model.safetensors.index.json"
        of = {name: file for file, own in files.items() for name in own}
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": of}))
        return path

    def test_weights_are_found_in_any_nesting_if_there_are_no_others(self, saved):
        assert agrees(build(ARCH, saved({"a": {"b": {"c": state()}}, "epoch": 3})), state())
        optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
        assert agrees(build(ARCH, saved({"net_g": state(), "optimizer": optimizer})), state())
        said = refusal(saved({"student": state(), "other": other()}))
        assert "holds no state dict, but several, under 'student', 'other'" in said

    def test_all_of_them_are_read(self, index):
        assert agrees(build(ARCH, str(index)), state())
        assert agrees(build(ARCH, str(index.parent)), state())

    def test_a_part_that_is_missing_is_named(self, index):
        (index.parent / "b.safetensors").unlink()
        assert "names 'b.safetensors', which is not beside it" in refusal(str(index))

    @pytest.fixture
    def numbered(self, index):
        """Return a folder whose parts say by their names alone that they belong together."""
        index.unlink()
        for number, name in enumerate(("a", "b"), 1):
            part = index.parent / f"{name}.safetensors"
            part.rename(index.parent / f"model-{number:05d}-of-00002.safetensors")
        return index.parent

    def test_parts_that_are_numbered_need_no_index(self, numbered):
        assert agrees(build(ARCH, str(numbered)), state())

    def test_a_numbered_part_that_is_missing_is_named(self, numbered):
        (numbered / "model-00002-of-00002.safetensors").unlink()
        said = refusal(str(numbered))
        assert "holds 1 of 2 parts, and 'model-00002-of-00002.safetensors' is missing" in said

    def test_numbered_parts_of_several_models_are_not_mixed(self, numbered):
        part = numbered / "model-00001-of-00002.safetensors"
        (numbered / "ema-00001-of-00003.safetensors").write_bytes(part.read_bytes())
        assert "'ema-00001-of-00003.safetensors' and 'model-00001-of" in refusal(str(numbered))

    @pytest.mark.parametrize("name", ["../b.safetensors", "/etc/passwd", "."])
    def test_no_index_leads_elsewhere(self, index, name):
        index.write_text(json.dumps({"weight_map": {"head.weight": name}}))
        assert "which is no file beside it, as parts of weights are" in refusal(str(index))

    @pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
    def test_what_is_no_index_is_said(self, index, text):
        index.write_text(text)
        said = refusal(str(index))
        assert "is no index of weights" in said or "names 'no files'" in said

    def test_a_pruned_model_is_named(self, tmp_path):
        small = str(tmp_path / "small")
        prune("vit_micro", "magnitude", 0.3, timed=False).save(small)
        said = refusal(small, "vit_micro")
        assert "is a model that prunekit pruned" in said
        assert said.endswith(f"--arch {small}.")
        assert prune(small, "magnitude", 0.1, timed=False).parity.holds

    def test_a_model_of_transformers_is_named(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = transformers.ViTConfig(**sizes, intermediate_size=8, image_size=32)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        said = refusal(str(tmp_path))
        assert "are of ViTForImageClassification of transformers" in said
        loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
        example = {"pixel_values": torch.randn(1, 3, 32, 32)}
        assert prune(loaded, "magnitude", 0.1, example_input=example, multiple=1).parity.holds

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "it is empty; download or save it again"),
            (b"\n<!DOCTYPE html>\n<html lang='en'>", "it is a web page (HTML); download the file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
            (b'{"error": "Repository not found"}', "it is a text file"),
            ("Zugriff verweigert: für Gäste".encode() * 30, "it is a text file"),
            (b"\x00\x01\x02\x03" * 100, "is not a readable weights file"),
        ],
        ids=["empty", "html", "lfs", "json", "text", "noise"],
    )
    def test_what_holds_no_weights_is_said(self, tmp_path, name, content, expected):
        (tmp_path / name).write_bytes(content)
        assert expected in refusal(str(tmp_path / name))

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize("kept", [20, 0.5, -1])
    def test_a_file_that_was_cut_off_is_one_sentence(self, saved, name, kept):
        file = Path(saved(state(), name))
        whole = file.read_bytes()
        file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
        assert "is not a readable weights file" in refusal(str(file))
        assert "again" in refusal(str(file))

    @pytest.mark.parametrize("old", [False, True])
    def test_a_pickle_that_is_called_safetensors_is_renamed(self, saved, old):
        file = Path(saved(state(), _use_new_zipfile_serialization=not old))
        wrong = file.rename(file.with_suffix(".safetensors"))
        assert "it is from torch.save; rename it to end in .pth" in refusal(str(wrong))
        assert agrees(build(ARCH, str(wrong.rename(file))), state())

    def test_safetensors_are_read_under_any_name(self, saved, tmp_path):
        Path(saved(state(), "weights.safetensors")).rename(tmp_path / "pytorch_model.bin")
        assert agrees(build(ARCH, str(tmp_path / "pytorch_model.bin")), state())

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    def test_large_tensors_are_mapped_rather_than_read(self, saved, name):
        file = saved({"a": torch.zeros(2**26)}, name)
        before = _own_memory()
        tensors = read_checkpoint(Path(file)).tensors
        assert _own_memory() - before < 2**26 < tensors["a"].nbytes

    @pytest.mark.parametrize("old", [False, True])
    def test_a_whole_model_is_refused_and_its_state_dict_is_read(self, saved, old):
        file = saved(model(), _use_new_zipfile_serialization=not old)
        said = refusal(file)
        assert "(timm.models.vision_transformer.VisionTransformer)" in said
        assert old or "it holds a whole model, not its weights alone" in said
        whole = torch.load(file, weights_only=False)
        assert agrees(build(ARCH, saved(whole.state_dict())), state())

    def test_an_object_that_is_not_allowed_is_named(self, saved):
        file = saved({"model": state(), "best": np.float64(0.8)})
        said = refusal(file)
        assert "it holds other objects (numpy." in said
        assert "save the model's state_dict() alone with torch.save" in said
        trusted = torch.load(file, weights_only=False)
        assert agrees(build(ARCH, saved(trusted["model"])), state())

    def test_no_code_of_a_file_is_run(self, saved, tmp_path):
        assert "(posix.system)" in refusal(saved({"model": _Touch(tmp_path / "touched")}))
        assert not (tmp_path / "touched").exists()

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*")
    def test_of_torchscript_the_state_dict_is_read(self, saved, tmp_path):
        file = str(tmp_path / "script.pt")
        torch.jit.trace(model("test_resnet").eval(), torch.zeros(1, 3, 64, 64)).save(file)
        assert "a TorchScript archive; save torch.jit.load(...).state_dict()" in refusal(file)
        read = saved(torch.jit.load(file).state_dict())
        assert agrees(build("test_resnet", read), state("test_resnet"))

    def test_other_archives_are_refused(self, tmp_path):
        np.savez(tmp_path / "jax.npz", kernel=np.zeros(3))
        assert "it is an archive of 1 files" in refusal(str(tmp_path / "jax.npz"))

    def test_a_compressed_archive_is_read_right(self, saved, tmp_path):
        with (
            zipfile.ZipFile(saved(state())) as plain,
            zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
        ):
            for entry in plain.namelist():
                small.writestr(entry, plain.read(entry))
        assert agrees(build(ARCH, str(tmp_path / "small.pth")), state())


def _own_memory() -> int:
    """Return the bytes of memory that belong to no file."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class _Touch:
    """Pickled, a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)
