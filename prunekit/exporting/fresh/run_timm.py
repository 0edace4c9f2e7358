"""Run a folder by stock timm, where prunekit is not: python run_timm.py FOLDER INPUTS OUTPUTS."""

import sys

import timm
import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves


def main(folder: str, fed: str, made: str) -> None:
    """Feed a model the images of a file, called "batch.number", and write what it makes.

    Args:
        folder: What timm loads.
        fed: Where the images are.
        made: Where the outputs go.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    outputs = {}
    with torch.inference_mode():
        for name, images in load_file(fed).items():
            for number, leaf in enumerate(tree_leaves(model.to(images.dtype)(images))):
                outputs[f"{name.partition('.')[0]}.{number:03d}"] = leaf.contiguous().clone()
    save_file(outputs, made)


if __name__ == "__main__":
    main(*sys.argv[1:])
    assert "prunekit" not in sys.modules, "prunekit was imported"
