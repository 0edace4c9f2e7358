"""The architectures of the bench of many models: six shapes, each small and large."""

COMMON = {"in_chans": 1, "num_classes": 10}
INPUT = [1, 32, 32]


def inverted(channels: int, *, repeat: int, kernel: int, stride: int, expand: int) -> list[dict]:
    """Describe a stage of inverted residuals with squeeze-and-excitation, as timm decodes it."""
    block = {
        "block_type": "ir",
        "exp_ratio": expand,
        "out_chs": channels,
        "dw_kernel_size": kernel,
        "se_ratio": 0.25,
        "noskip": False,
        "act_layer": None,
    }
    return [{**block, "stride": stride if n == 0 else 1} for n in range(repeat)]


def swin(width: int, depths: list[int]) -> dict:
    return {
        "class": "timm.models.swin_transformer.SwinTransformer",
        "args": {
            "img_size": 32, "patch_size": 4, "window_size": 4,
            "embed_dim": width, "depths": depths, "num_heads": [2, 4],
        },
    }  # fmt: skip


def vit(width: int, depth: int) -> dict:
    return {
        "class": "timm.models.vision_transformer.VisionTransformer",
        "args": {
            "img_size": 32, "patch_size": 4, "embed_dim": width, "depth": depth, "num_heads": 4,
        },
    }  # fmt: skip


def convnext(width: int, depths: list[int]) -> dict:
    return {
        "class": "timm.models.convnext.ConvNeXt",
        "args": {
            "patch_size": 4, "depths": depths, "kernel_sizes": 5, "ls_init_value": 1.0,
            "dims": [width, 2 * width, 3 * width, 4 * width],
        },
    }  # fmt: skip


def resnet(width: int, layers: list[int]) -> dict:
    return {
        "class": "timm.models.resnet.ResNet",
        "args": {
            "block": "timm.models.resnet.BasicBlock", "layers": layers, "stem_width": width,
            "channels": [width, 2 * width, 3 * width, 4 * width],
        },
    }  # fmt: skip


def depthwise(width: int, repeat: int) -> dict:
    return {
        "class": "timm.models.efficientnet.EfficientNet",
        "args": {
            "block_args": [
                inverted(width, repeat=repeat, kernel=3, stride=1, expand=3),
                inverted(2 * width, repeat=repeat, kernel=5, stride=2, expand=4),
                inverted(4 * width, repeat=repeat, kernel=3, stride=2, expand=4),
            ],
            "stem_size": width, "num_features": 8 * width, "act_layer": "silu",
        },
    }  # fmt: skip


def pvt(width: int, depths: list[int]) -> dict:
    return {
        "class": "timm.models.pvt_v2.PyramidVisionTransformerV2",
        "args": {
            "depths": depths, "num_heads": [1, 2, 4, 4],
            "embed_dims": [width, 2 * width, 4 * width, 4 * width],
            "mlp_ratios": [4, 4, 4, 4], "sr_ratios": [4, 2, 1, 1],
        },
    }  # fmt: skip


SHAPES = {
    "swin": (swin(32, [2, 2]), swin(48, [2, 4])),
    "vit": (vit(48, 4), vit(64, 6)),
    "convnext": (convnext(24, [1, 2, 3, 1]), convnext(32, [2, 2, 5, 2])),
    "resnet": (resnet(16, [1, 1, 1, 1]), resnet(24, [2, 2, 2, 1])),
    "depthwise": (depthwise(12, 2), depthwise(16, 3)),
    "pvt": (pvt(16, [1, 1, 2, 1]), pvt(24, [2, 2, 2, 1])),
}
SIZES = ("small", "large")
MODELS = {
    f"{shape}_{size}": entry | {"args": COMMON | entry["args"], "input_size": INPUT}
    for shape, entries in SHAPES.items()
    for size, entry in zip(SIZES, entries, strict=True)
}
