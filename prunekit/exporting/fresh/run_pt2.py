"""Run a .pt2 file where neither prunekit nor timm is: python run_pt2.py MODEL INPUTS OUTPUTS."""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves, tree_unflatten


def main(model: str, fed: str, made: str) -> None:
    """Feed a program the tensors of a file, called "batch.number", and write what it makes.

    Args:
        model: The .pt2 file.
        fed: Where the inputs are.
        made: Where the outputs go.
    """
    program = torch.export.load(model)
    module = program.module()
    batches: dict[str, list[torch.Tensor]] = {}
    for name, tensor in sorted(load_file(fed).items()):
        batches.setdefault(name.partition(".")[0], []).append(tensor)
    outputs = {}
    with torch.inference_mode():
        for batch, tensors in batches.items():
            args, kwargs = tree_unflatten(tensors, program.call_spec.in_spec)
            leaves = tree_leaves(module(*args, **kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            for number, leaf in enumerate(tensors):
                outputs[f"{batch}.{number:03d}"] = leaf.contiguous().clone()
    save_file(outputs, made)


if __name__ == "__main__":
    main(*sys.argv[1:])
    strangers = {"prunekit", "timm"} & set(sys.modules)
    assert not strangers, f"{strangers} was imported"
