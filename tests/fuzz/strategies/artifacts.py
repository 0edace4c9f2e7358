"""Damaged artifacts, and what a user then does with them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .damage import RAW, Damage, Edit, Raw, accidents, edits
from .hostile import mix

ACTIONS = ("show", "show --json", "eval", "eval --data", "load", "finetune")
# What reads most of either file.
FITTING = {
    "plan.json": ("load", "load", "load", "eval", "finetune", "show"),
    "report.json": ("show", "show", "show", "show --json", "eval", "finetune", "load"),
}
HOSTILE = "\x1b]0;title\x07\x1b[31mred"


@dataclass(frozen=True)
class Damaged:
    """An artifact that something happened to.

    Attributes:
        damage: What happened.
        action: What is done with it: one of `ACTIONS`.
        masked: Whether it is the one with masks.
    """

    damage: Damage
    action: str
    masked: bool = False


def _plan(*path: str | int, value: object) -> Edit:
    return Edit("plan.json", path, value)


def _report(*path: str | int, value: object) -> Edit:
    return Edit("report.json", path, value)


def _remote(name: str) -> Edit:
    built = {"name": "x", "timm": name, "args": {}, "card": None}
    return _plan("architecture", value=built)


NAMED = (
    *map(_remote, ("hf-hub:evil/repo", "hf_hub:evil/repo", "local-dir:/etc", "resnet18", "../x")),
    _plan("architecture", "args", "depth", value=10_000),
    _plan("architecture", "args", "depth", value=-1),
    _plan("architecture", "args", "embed_dim", value=10**6),
    _plan("architecture", "args", "embed_dim", value="64"),
    _plan("architecture", "args", "img_size", value=10**6),
    _plan("architecture", "args", "img_size", value=[28, 28]),
    _plan("architecture", "args", "num_classes", value=10**9),
    _plan("architecture", "args", "num_classes", value=0),
    _plan("architecture", "args", "num_heads", value=0),
    _plan("architecture", "args", "num_heads", value=1.5),
    _plan("architecture", "args", "drop_path_rate", value=Raw(RAW.index("NaN"))),
    _plan("architecture", "args", "norm_layer", value="torch.nn.Identity"),
    _plan("architecture", "args", "pretrained", value=True),
    _plan("architecture", "args", value=[]),
    _plan("architecture", "card", "class", value="os.system"),
    _plan("architecture", "card", "class", value="timm.models.create_model"),
    _plan("architecture", "card", "class", value="timm.models.vision_transformer.Nothing"),
    _plan("architecture", "card", "class", value="timm.models.nothing.at_all"),
    _plan("architecture", "card", "class", value="timm.models.resnet.ResNet"),
    _plan("architecture", "card", "class", value=["timm"]),
    _plan("architecture", "card", "input_size", value=[1, 10**6, 10**6]),
    _plan("architecture", "card", "input_size", value=[1, 28]),
    _plan("architecture", "card", "input_size", value="1x28x28"),
    _plan("architecture", "card", "mean", value=[0, 0, 0]),
    _plan("architecture", "card", "std", value=[0]),
    _plan("architecture", "card", value=None),
    _plan("adapter", value="swin"),
    _plan("adapter", value=HOSTILE),
    _plan("dtype", value="int8"),
    _plan("dtype", value=["float32"]),
    _plan("format", value="1"),
    _plan("format", value=HOSTILE),
    _plan("versions", value={HOSTILE: HOSTILE}),
    _plan("masks_sha256", value="x"),
    _plan("weights_sha256", value=None),
    _plan("plan", "axes", value={}),
    _plan("plan", "axes", 0, "size", value=10**12),
    _plan("plan", "axes", 0, "kept", value=[-1]),
    _plan("plan", "axes", 0, "kept", value=[0, 0]),
    _plan("plan", "axes", 0, "kept", value=[1.9]),
    _plan("plan", "axes", 0, "kept", value="012"),
    _plan("plan", "axes", 0, "kept", value=[10**30]),
    _plan("plan", "axes", 1, "kept", value=[0, 1, 2, 3]),
    _plan("plan", "by", value=HOSTILE),
    _report("axes", 0, "kept", value=10**9),
    _report("axes", 0, "kept", value=-(10**9)),
    _report("axes", 0, "size", value=0),
    _report("axes", 0, "size", value="\x1b[2J"),
    _report("axes", value={HOSTILE: {"kind": "mlp", "size": 4, "kept": 2}}),
    _report("before", "params", value=0),
    _report("before", "params", value=Raw(RAW.index("1e400"))),
    _report("after", "top1", value=HOSTILE),
    _report("after", "latency_ms", value={"1": {"median": 0, "low": 0, "high": 0}}),
    _report("after", "latency_ms", value={HOSTILE: {}}),
    _report("warnings", value=[HOSTILE, "[red]markup[/red]", 3]),
    _report("warnings", value="abc"),
    _report("parity", "holds", value=HOSTILE),
    _report("parity", value=None),
    _report("rounds", value=[]),
    _report("seconds", value={HOSTILE: "x"}),
    _report("recipe", "data", value="/usr"),
    _report("recipe", "data", value="../../.."),
    _report("recipe", "data", value=HOSTILE),
    _report("recipe", "data", value=["/usr"]),
    _report("recipe", "data", value="x" * 5000),
    _report("recipe", "data", value=None),
    _report("recipe", "arch", value=HOSTILE),
    _report("recipe", "steps", value="9"),
    _report("recipe", "steps", value=10**9),
    _report("recipe", "options", value={"p": HOSTILE}),
    _report("recipe", "finetune", value={"epochs": 10**9}),
    _report("recipe", "repair", value="lstsq"),
    _report("recipe", "granularity", value=HOSTILE),
    _report("recipe", value=None),
    _report("finetune", value={"recipe": HOSTILE}),
    _report("sparsity", value={"layers": HOSTILE}),
    _report("files", value={"../../../etc/passwd": "x"}),
    _report("files", value={"history.jsonl": "x"}),
    _report("files", value=["plan.json"]),
)  # fmt: skip


def artifacts() -> st.SearchStrategy[Damaged]:
    """Return damaged artifacts: some by accident, most forged."""
    anywhere = edits("plan.json", "report.json")
    damage = mix((1, accidents()), (2, st.sampled_from(NAMED)), (1, anywhere))
    return damage.flatmap(_used)


def _used(damage: Damage) -> st.SearchStrategy[Damaged]:
    actions = FITTING[damage.file] if isinstance(damage, Edit) else ACTIONS
    masked = st.sampled_from([False, False, False, True])
    return st.builds(Damaged, st.just(damage), st.sampled_from(actions), masked)
