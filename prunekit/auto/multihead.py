"""FewerHeads: torch's own attention, with heads left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.MultiheadAttention):
    """A `torch.nn.MultiheadAttention` that has fewer heads than its input has room for.

    Torch's takes the size of a head from its input and the number of heads. This one takes it from
    its weights; arguments, results and names of parameters are the same. `bias_k`, `bias_v` and
    `add_zero_attn` are not known here: heads of such modules do not leave.

    Source:
        Vaswani et al., Attention is all you need, NeurIPS 2017, Section 3.2.
    """

    scale_of_heads: float | None = None  # what queries times keys are multiplied with

    @staticmethod
    def fits(module: nn.MultiheadAttention) -> bool:
        """Say whether heads of a module may leave."""
        return module.bias_k is None and module.bias_v is None and not module.add_zero_attn

    @staticmethod
    def become_(module: Any) -> None:
        """Let a module that has lost heads be of this class."""
        module.__class__ = FewerHeads
        # So that no layer around it takes a shortcut past its forward().
        module._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see `torch.nn.MultiheadAttention`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        single = query.dim() == 2
        inputs = [x.unsqueeze(0) if single else x for x in (query, key, value)]
        if not self.batch_first and not single:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = self._projected(inputs)  # (batch, heads, tokens, size of a head)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.mT * (self.scale_of_heads or q.shape[-1] ** -0.5)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout)
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if single else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale_of_heads)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if single:
            return out.squeeze(0), weights
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, inputs: list[Tensor]) -> list[Tensor]:
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        made = [F.linear(*given) for given in zip(inputs, weights, biases, strict=True)]
        return [x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2) for x in made]

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """Return what to add to the scores, broadcast to (batch, heads, queries, keys)."""
        masks = []
        if padding is not None:
            masks.append(_added(padding, q).view(-1, 1, 1, k.shape[2]))
        if mask is not None:
            added = _added(mask, q)
            # One of three dimensions is of every head, of which some are gone: it is refused.
            if added.dim() == 3 and len(added) != len(q) * self.num_heads:
                raise ValueError(
                    f"attn_mask is for {len(added)} heads of all images, but {self.num_heads} "
                    f"heads are left for each of {len(q)}; pass one of two dimensions."
                )
            each = (-1, self.num_heads, *added.shape[1:])
            masks.append(added.view(each) if added.dim() == 3 else added)
        return sum(masks[1:], masks[0]) if masks else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as what is added: minus infinity where a bool one is true."""
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
        mask, float("-inf")
    )
