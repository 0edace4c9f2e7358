"""Repairing layers that mix tokens: they run on every channel by itself, and some are gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_plan
from references import least_squares
from torch import nn

from prunekit import Adapter, AxisSpec, Fold, Tie
from prunekit.cutting.shrink import shrunk
from prunekit.errors import AdapterError
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.tracing.graph import trace

LSTSQ = REPAIRS.get("lstsq")

TOKENS, CHANNELS = 6, 12
WIDTH = AxisSpec("width", "width", layer="embed")
HIDDEN = AxisSpec(  # the graph would take the channels for its features
    "tokens",
    "tokens",
    ties=(
        Tie("widen.weight", 0, Fold((8,))),
        Tie("widen.bias", 0, Fold((8,))),
        Tie("narrow.weight", 1, Fold((8,))),
    ),
)


class Mixing(nn.Module):
    """Embeds tokens, lets an MLP mix them, and classifies their mean."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, CHANNELS)
        self.widen, self.narrow = nn.Linear(TOKENS, 8), nn.Linear(8, TOKENS)
        self.head = nn.Linear(CHANNELS, 3)

    def mix(self, x):  # (images, tokens, channels)
        return x + self.narrow(self.widen(x.transpose(1, 2)).relu()).transpose(1, 2)

    def forward(self, x):
        return self.head(self.mix(self.embed(x)).mean(1))


class Twice(Mixing):
    """Mixes the tokens of two embeddings with one MLP, so that its rows are of either."""

    def __init__(self):
        super().__init__()
        self.second, self.other = nn.Linear(5, CHANNELS), nn.Linear(CHANNELS, 3)

    def forward(self, x):
        return super().forward(x) + self.other(self.mix(self.second(x)).mean(1))


class Own(Adapter):
    name, kinds, default_kinds = "own", ("width", "tokens"), ("width", "tokens")

    def matches(self, model):
        return isinstance(model, Mixing)

    def axes(self, model):
        second = [AxisSpec("second", "width", layer="second")] if isinstance(model, Twice) else []
        return [WIDTH, HIDDEN, *second]

    def role(self, parameter):
        return "mlp"

    def unfollowed(self, model):
        # The width is no feature of these layers.
        return [n for n, _ in model.named_parameters() if n.startswith(("widen", "narrow"))]


def cut(model):
    """Cut a model at random; return everything that a repair is given."""
    batches = [(torch.randn(16, TOKENS, 5), torch.full((16,), -1)) for _ in range(2)]
    adapter = Own()
    axes = trace(model.eval(), adapter.axes(model), adapter, batches[0][0])
    plan = random_plan(axes, 0.4)
    return batches, axes, plan, shrunk(model, axes, plan, adapter).eval()


def test_it_is_the_regression_on_the_rows_of_the_channels_that_stay():
    torch.manual_seed(0)
    model = Mixing()
    batches, axes, plan, small = cut(model)

    repair_(small, model, axes, plan, LSTSQ.configure(ridge=0.01), (), batches)

    channels, hidden = (list(plan.kept[name]) for name in ("width", "tokens"))
    assert len(channels) < CHANNELS
    images = torch.cat([batch for batch, _ in batches])
    with torch.no_grad():
        whole = model.widen(model.embed(images).transpose(1, 2)).relu()
        y = model.narrow(whole)[:, channels]
        x = small.widen(small.embed(images).transpose(1, 2)).relu()
    weight = model.narrow.weight.detach().double().numpy()[:, hidden]
    x, y = (side.flatten(0, 1).double().numpy() for side in (x, y))
    expected, bias = least_squares(x, y, weight, 0.01)
    np.testing.assert_allclose(small.narrow.weight.detach(), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(small.narrow.bias.detach(), bias, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_told_apart_is_refused():
    torch.manual_seed(0)
    model = Twice()
    batches, axes, plan, small = cut(model)
    one, other = plan.kept["width"], plan.kept["second"]
    assert len(one) == len(other)
    assert one != other

    with pytest.raises(AdapterError, match=r"'narrow' runs on \d of 12 channels, .*exclude"):
        repair_(small, model, axes, plan, LSTSQ, (), batches)
