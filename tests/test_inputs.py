"""Models that take several inputs, and that return whatever they like."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from prunekit import load, prune
from prunekit.arguments import are_batch, batch_of, tensors_of
from prunekit.errors import AdapterError, RequestError
from prunekit.tracing.outputs import tensors_by_name


class Two(nn.Module):
    """An image and some numbers about it."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3)
        )
        self.told = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, image, meta, scale=1.0):
        return scale * self.seen(image).mean((2, 3)) + self.told(meta)


class Listed(Two):
    """Takes images of several sizes in a list, as detectors do."""

    def forward(self, images):
        return [self.seen(image.unsqueeze(0)) for image in images]


IMAGE, META = torch.randn(2, 3, 12, 12), torch.randn(2, 10)
INPUTS = {
    "tuple": (IMAGE, META),
    "dictionary": {"image": IMAGE, "meta": META, "scale": 2.0},
    "other mapping": UserDict(image=IMAGE, meta=META),
}


def two(cls=Two):
    torch.manual_seed(0)
    return cls().eval()


@pytest.mark.parametrize("kind", INPUTS)
def test_a_model_with_several_inputs_is_pruned_timed_saved_and_loaded(kind, tmp_path):
    model, inputs = two(), INPUTS[kind]
    result = prune(model, "magnitude", 0.3, example_input=inputs, timed=True, multiple=1)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    assert result.after.macs < result.before.macs
    assert result.after.latency_ms.keys() == {1, 8}
    assert result.after.memory_bytes > 0
    result.save(tmp_path / "small")
    small = load(tmp_path / "small", model=model, example_input=inputs)
    args = inputs if isinstance(inputs, tuple) else (IMAGE, META)
    assert torch.equal(small(*args), result.model(*args))


def test_a_list_is_one_argument():
    images = [torch.randn(3, 12, 12), torch.randn(3, 9, 14)]
    result = prune(two(Listed), "magnitude", 0.1, example_input=images, timed=True)
    assert result.parity.holds
    assert [out.shape[-2:] for out in result.model(images)] == [(8, 8), (5, 10)]
    assert result.before.macs == 32 * 3 * 9 * 10 * 10 + 16 * 32 * 9 * 8 * 8  # of the first alone


def test_where_no_tensor_says_how_many_images_there_are_nothing_is_timed():
    inputs = (IMAGE, torch.randn(10))  # one row for all images
    result = prune(two(), "magnitude", 0.3, example_input=inputs, timed=True, multiple=1)
    assert result.parity.holds
    assert not result.after.latency_ms
    assert result.after.memory_bytes is None
    (warning,) = result.warnings
    assert "Latency and memory were not measured" in warning


@pytest.mark.parametrize("nothing", [(), {}, [], (1, "two"), {"scale": 2.0}])
def test_inputs_without_a_tensor_are_refused(nothing):
    with pytest.raises(RequestError, match="without any tensor; expected one batch of inputs"):
        prune(two(), "magnitude", 0.3, example_input=nothing)


def test_inputs_that_do_not_fit_are_refused_by_their_shapes():
    with pytest.raises(AdapterError, match=r"does not run on inputs of shapes \(1, 3, 12, 12\), "):
        prune(two(), "magnitude", 0.3, example_input=(IMAGE, torch.randn(2, 9)))


def test_a_batch_is_what_all_tensors_agree_on():
    for batch in (IMAGE, (IMAGE, META), [IMAGE[0]]):
        assert are_batch(batch)
    for other in ((IMAGE, META[0]), (IMAGE, torch.tensor(1.0)), []):
        assert not are_batch(other)
    for inputs in (IMAGE, (IMAGE, META), {"image": IMAGE, "scale": 2.0}):
        assert [len(tensor) for tensor in tensors_of(batch_of(inputs, 3))] == [3] * len(
            tensors_of(inputs)
        )
    assert torch.equal(batch_of(IMAGE, 2)[1], IMAGE[0])
    assert len(batch_of([IMAGE[0], IMAGE[1]], 3)) == 3


@dataclass
class Boxes:
    """What a detector might return: an object that holds tensors."""

    scores: torch.Tensor
    inner: object = None


class Boxed(Two):
    def forward(self, image):
        hidden = self.seen[:3](image)
        return {"boxes": Boxes(self.seen[3](hidden), Boxes(hidden))}


def test_tensors_in_objects_are_outputs_too():
    names = tensors_by_name({"a": Boxes(IMAGE, [Boxes(META)])})
    assert list(names) == ["output['a'].scores", "output['a'].inner[0].scores"]


def test_what_only_an_object_returns_does_not_shrink():
    model = two(Boxed)
    with pytest.raises(AdapterError, match="Nothing of Boxed can shrink"):
        prune(model, "magnitude", 0.01, example_input=IMAGE)
