"""What pruning is up against: token merging, at equal measured latency.

    python benchmarks/token_merging.py [--batches 8,32] [--merge 4,6,8]

Token merging (Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv:2210.09461) makes
a ViT faster without touching its weights: after each attention the r most similar pairs of tokens
become one. For each r this times the merged model beside the dense one, and then prunes the dense
one by as much latency, with a repair and without. An example: prunekit itself merges no tokens.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from page import facts, markdown
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from prunekit import prune
from prunekit.errors import BudgetError
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.subject import Source, find_subject
from prunekit.measuring.accuracy import EVAL_BATCH, accuracy
from prunekit.measuring.saving import Conditions, saved_time
from prunekit.shared import Shared

MODEL, DATA = "vit_micro", "fashion-mnist"
OUT = Path(__file__).parent / "results" / "token_merging.md"
NOTE = """\
*tokens* are those after the last block, of 50. *latency gone* is the median over pairs of passes
of the dense and the faster model, with its quartiles. The pruned models were asked for the latency
that merging was measured to remove: `influence`, axes `mlp,head,block`, 512 calibration images for
the scores and for `lstsq`. Merging needs no images and no training; both could be combined."""


class Merging(nn.Module):
    """A block of a ViT that merges tokens between its attention and its MLP."""

    def __init__(self, block: Any, count: int, sizes: list[Tensor | None], first: bool):
        """Take over a block.

        Args:
            block: The block.
            count: How many tokens to merge away.
            sizes: Holds how many patches each token stands for, (batch, tokens, 1); shared by all
                blocks of a model.
            first: Whether the model's tokens begin here, each of which stands for one patch.
        """
        super().__init__()
        self.block, self.count, self.sizes, self.first = block, count, sizes, first

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attend in proportion to what tokens stand for, merge, and go on."""
        block, size = self.block, None if self.first else self.sizes[0]
        attended, keys = _attended(block.attn, block.norm1(x), size)
        x = x + block.ls1(attended)
        if size is None:
            size = torch.ones_like(x[..., :1])
        x, self.sizes[0] = merged(x, size, keys, self.count)
        return x + block.ls2(block.mlp(block.norm2(x)))


def _attended(attn: Any, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what attention makes of tokens, and the mean of their keys over heads."""
    count, tokens, width = x.shape
    qkv = attn.qkv(x).reshape(count, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weight = None if size is None else size.log().view(count, 1, 1, tokens)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=weight, scale=attn.scale)
    return attn.proj(out.transpose(1, 2).reshape(count, tokens, width)), k.mean(1)


def merged(x: Tensor, size: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge the `count` most similar pairs of every other token with one of those between.

    Args:
        x: Tokens, (batch, tokens, channels); the first is the class token, and stays.
        size: How many patches each stands for, (batch, tokens, 1).
        keys: What similarity is measured by, (batch, tokens, channels).
        count: How many tokens leave.

    Returns:
        The tokens, weighted means of what was merged, and their sizes.
    """
    count = min(count, (x.shape[1] - 1) // 2)
    keys = F.normalize(keys, dim=-1)
    scores = keys[:, ::2] @ keys[:, 1::2].mT  # (batch, one side, the other)
    scores[:, 0] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(dim=-1, descending=True).unsqueeze(-1)
    leaving, staying = order[:, :count], order[:, count:].sort(dim=1).values
    into = partner.unsqueeze(-1).gather(1, leaving)

    def joined(values: Tensor) -> Tensor:
        one, other = values[:, ::2], values[:, 1::2].clone()
        wide = (-1, -1, values.shape[-1])
        other.scatter_add_(1, into.expand(wide), one.gather(1, leaving.expand(wide)))
        return torch.cat([one.gather(1, staying.expand(wide)), other], dim=1)

    total = joined(size)
    return joined(x * size) / total, total


def merging(model: Any, count: int) -> nn.Module:
    """Return a copy of a ViT that merges tokens in every block, with the same weights."""
    faster, sizes = find_subject(Source(model=model), Shared()).model, [None]
    faster.blocks = nn.Sequential(
        *(Merging(block, count, sizes, n == 0) for n, block in enumerate(faster.blocks))
    )
    return faster.eval()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    subject = find_subject(Source(model=MODEL), Shared())
    data = open_data(DATA, subject.model, spec=subject.spec)
    table = Table("batch", "model", "tokens", "latency gone", "quartiles", "top-1")
    table.add_row("", "dense", "50", "", "", f"{top1(subject.model, data):.2f} %")
    for batch in args.batches:
        for count in args.merge:
            faster = merging(MODEL, count)
            saving = saved_time(subject.model, faster, subject.example, Conditions(batch))
            tokens = [50]
            for _ in faster.blocks:
                tokens.append(tokens[-1] - min(count, (tokens[-1] - 1) // 2))
            table.add_row(str(batch), f"merging, r = {count}", str(tokens[-1]),
                          *shown(saving), f"{top1(faster, data):.2f} %")  # fmt: skip
            for repair in ("none", "lstsq"):
                table.add_row(str(batch), f"pruned, repair {repair}", "50",
                              *pruned(batch, saving.removed, repair))  # fmt: skip
            print(table.row_count, flush=True)
    parts = ["# Pruning and token merging, at equal latency", NOTE, facts("0", 1), markdown(table)]
    OUT.write_text("\n\n".join(parts) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def numbers(text: str) -> list[int]:
        return list(map(int, text.split(",")))

    parser.add_argument("--batches", type=numbers, default=[8, 32])
    parser.add_argument("--merge", type=numbers, default=[4, 6, 8])
    return parser.parse_args()


def top1(model: nn.Module, data: Any) -> float:
    return accuracy(model, batches(data.test, EVAL_BATCH))[0]


def shown(saving: Any) -> tuple[str, str]:
    return f"{saving.removed:.1%}", f"{saving.low:.1%} to {saving.high:.1%}"


def pruned(batch: int, removed: float, repair: str) -> tuple[str, str, str]:
    """Prune by as much latency, and say what came of it."""
    if removed <= 0:
        return "nothing to remove", "", ""
    try:
        result = prune(
            MODEL, "influence", removed, by="latency", latency_batch=batch, repair=repair,
            axes=["mlp", "head", "block"], data=DATA, evaluate=True, timed=False,
        )  # fmt: skip
    except BudgetError as error:
        return str(error).partition(":")[0], "", ""
    return *shown(result.rounds[0].timing.saving), f"{result.after.top1:.2f} %"


if __name__ == "__main__":
    main()
