"""torch's own attention, with all heads and with fewer."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from prunekit import load, prune
from prunekit.auto.multihead import FewerHeads

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE


def attention(**options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def fewer(module):
    made = copy.deepcopy(module)
    FewerHeads.become_(made)
    return made


def tokens(count, width=WIDTH, batch=2, first=True):
    x = torch.randn(batch, count, width, generator=torch.Generator().manual_seed(count))
    return x if first else x.transpose(0, 1)


PADDING = torch.zeros(2, 6, dtype=torch.bool)
PADDING[0, 4:] = True
CAUSAL = torch.ones(5, 6).triu(1).bool()
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "bool mask": {"attn_mask": CAUSAL},
    "added mask": {"attn_mask": torch.randn(5, 6)},
    "mask of every head": {"attn_mask": torch.randn(2 * HEADS, 5, 6)},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
    "hint": {"attn_mask": CAUSAL, "is_causal": True},
}


def alike(one, other):
    assert (one is None) == (other is None)
    if one is not None:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("weights", "average"), [(True, True), (True, False), (False, True)])
def test_with_all_heads_it_is_torchs(mask, weights, average):
    told = {"need_weights": weights, "average_attn_weights": average, **MASKS[mask]}
    for first, bias in itertools.product((True, False), repeat=2):
        module = attention(batch_first=first, bias=bias)
        inputs = tokens(5, first=first), tokens(6, first=first), tokens(6, first=first).flip(-1)
        for found, wanted in zip(
            fewer(module)(*inputs, **told), module(*inputs, **told), strict=True
        ):
            alike(found, wanted)


def test_other_widths_of_keys_and_single_images_are_torchs_too():
    module = attention(kdim=10, vdim=12, batch_first=True)
    inputs = tokens(5), tokens(6, 10), tokens(6, 12)
    for single in (False, True):
        given = [x[0] for x in inputs] if single else inputs
        for found, wanted in zip(fewer(module)(*given), module(*given), strict=True):
            alike(found, wanted)


def test_a_mask_of_every_head_is_refused_when_heads_are_gone():
    module = fewer(attention(batch_first=True))
    module.num_heads = 2
    with pytest.raises(ValueError, match="is for 8 heads of all images, but 2 heads are left"):
        module(tokens(5), tokens(6), tokens(6), attn_mask=MASKS["mask of every head"]["attn_mask"])


def test_a_hint_without_its_mask_is_refused_as_torch_does():
    module = attention(batch_first=True)
    for one in (module, fewer(module)):
        with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
            one(tokens(5), tokens(5), tokens(5), is_causal=True)


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.last(self.encoder(self.first(x)))


class Cross(nn.Module):
    """Learnt queries that read an image, as detectors and pooling heads have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(1, 3, WIDTH))
        self.read = nn.MultiheadAttention(WIDTH, HEADS, kdim=16, vdim=16, batch_first=True)
        self.last = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.last(self.read(self.queries.expand(len(x), -1, -1), x, x)[0])


def vision():
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": HEADS, "hidden_dim": WIDTH, "mlp_dim": 64}
    return VisionTransformer(image_size=32, patch_size=8, num_classes=5, **sizes)


MODELS = {
    "encoder": (lambda: Encoder(batch_first=True), torch.randn(2, 9, 16)),
    "tokens first": (Encoder, torch.randn(9, 2, 16)),
    "norm first": (lambda: Encoder(batch_first=True, norm_first=True), torch.randn(2, 9, 16)),
    "cross": (Cross, torch.randn(2, 9, 16)),
    "torchvision": (vision, torch.randn(1, 3, 32, 32)),
}


def silenced(large, small):
    """Return the large model without the heads whose columns the small one does not have."""
    made = copy.deepcopy(large)
    for name, module in made.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            own, left = module.out_proj.weight, small.get_submodule(name).out_proj.weight
            kept = (own.T.unsqueeze(1) == left.T.unsqueeze(0)).all(-1).any(1)
            assert int(kept.sum()) == left.shape[1]
            own.data[:, ~kept] = 0
    return made


@pytest.mark.parametrize("name", MODELS)
def test_heads_of_torchs_attention_leave(name, tmp_path):
    make, x = MODELS[name]
    model = make().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    told = {"axes": ("head",), "by": "slices", "example_input": x, "multiple": 1}
    result = prune(model, "magnitude", 0.5, **told)
    assert result.parity.holds
    small = result.model
    counts = [m.num_heads for m in small.modules() if isinstance(m, nn.MultiheadAttention)]
    assert sum(counts) == HEADS * len(counts) // 2
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(model, small)(x), rtol=1e-4, atol=1e-5)
    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small", model=make(), example_input=x)
    assert torch.equal(loaded(x), small(x))
    again = prune(loaded, "magnitude", 0.2, example_input=x, multiple=1)
    assert again.parity.holds
    copied = copy.deepcopy(small).train()
    copied(x).square().mean().backward()
    assert all(p.grad is not None for p in copied.parameters())


def test_heads_stay_where_keys_are_added():
    class Added(Cross):
        def __init__(self):
            super().__init__()
            self.read = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, batch_first=True)
            self.more = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, WIDTH))

        def forward(self, x):
            return super().forward(self.more(x))

    result = prune(Added(), "magnitude", 0.1, example_input=torch.randn(2, 9, WIDTH), multiple=1)
    assert set(result.kinds.values()) == {"mlp"}
    assert type(result.model.read) is nn.MultiheadAttention
