"""Command lines: nearly right ones, right ones, and noise."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .hostile import mix, numbers, paths, small_numbers, words

STREAMS = ("utf-8",) * 8 + ("ascii", "latin-1", "full")
IMAGES = "IMAGES"  # stands for the folder of the scene's images


@dataclass(frozen=True)
class Line:
    """A command line.

    Attributes:
        words: What is typed after `prunekit`; `IMAGES` stands for a folder of images.
        stream: The encoding of standard output, or "full".
    """

    words: tuple[str, ...]
    stream: str = "utf-8"


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        good: Values that are right; none for a flag.
        bad: A strategy of such that most likely are not.
    """

    good: tuple[str, ...] = ()
    bad: st.SearchStrategy[str] | None = None


def names(*bad: str) -> st.SearchStrategy[str]:
    """Return wrong names for something that is looked up."""
    return mix((2, st.sampled_from(bad)), (1, words())) if bad else words()


ARCHS = names(
    "vit_mikro", "vit_b_typo", "vit_micro,", "VIT_MICRO", "hf-hub:evil/repo",
    "hf_hub:evil/repo", "local-dir:/etc", "/etc/passwd", "vit_micro.pretrained", "saved",
)  # fmt: skip
CRITERIA = names(
    "dimpa", "magnitude:p=0", "magnitude:p=nan", "magnitude:p=-1", "magnitude:p=x", "magnitude:q=1",
    "magnitude:p", "magnitude:p=", "magnitude:=1", "magnitude:p=1,p=2", "random:seed=-1",
    "random:seed=99999999999999999999", "magnitude:p=inf", "magnitude:p=1e308", "dimap:plain=maybe",
    "magnitude:p=1:p=2", "magnitude:,,,", "lstsq",
)  # fmt: skip
REPAIRS = names(
    "lstsq:ridge=nan", "lstsq:ridge=-1", "lstsq:ridge=inf", "lstsq:ridge=1e308", "lstsq:ridge=x",
    "bias:x=1", "magnitude", "lstsq:ridge=0", "lstsq:",
)  # fmt: skip
DATA = mix((2, paths()), (1, names("fashion-mnist", "imagenet", "fashion-mnist-mini/")))
DEVICES = names(
    "cuda", "cuda:99", "cpu:7", "meta", "mps", "gpu", "cpu,cuda", "CPU", "xla", "vulkan"
)
WEIGHTS = mix((2, paths()), (1, names("saved/model.safetensors", "saved/plan.json", "Pretrained")))

RUN = {
    "--arch": Option(("vit_micro",), ARCHS),
    "--criterion": Option(("magnitude", "random", "dimap", "magnitude:p=1", "fpgm"), CRITERIA),
    "--ratio": Option(("0.3", "0.5"), numbers()),
    "--granularity": Option(("slice", "weight", "2:4"), names(
        "0:4", "4:4", "5:4", "2:0", "-1:4", "2:", ":", "2:4:8", "1e9:2", f"1:{'9' * 30}", "2:3")),
    "--by": Option(("params", "macs", "slices"), names("param", "flops")),
    "--scope": Option(("axis", "kind", "model"), names("own", "axes")),
    "--repair": Option(("none", "bias", "lstsq"), REPAIRS),
    "--axes": Option(("mlp", "mlp,head", "head_dim"), names("mpl", "mlp,mlp", "mlp,,", ",")),
    "--include": Option(("*.mlp", "blocks.1.*"), names("*.mpl", "[", "[!]", "?" * 400, "**")),
    "--exclude": Option(("blocks.0.*",), names("*", "[", "blocks.*.attn")),
    "--floor": Option(("0.1", "0"), numbers()),
    "--multiple": Option(("8", "1"), numbers()),
    "--steps": Option(("1", "2"), mix((3, numbers()), (1, st.just("1000000000")))),
    "--schedule": Option(("cubic", "linear"), names("none", "cosine")),
    "--finetune": Option(("1",), small_numbers()),
    "--recipe": Option(("quick", "good.toml"), mix((3, paths()), (1, names("quik")))),
    "--distill": Option(),
    "--weights": Option(("auto", "random"), WEIGHTS),
    "--data": Option((IMAGES,), DATA),
    "--data-dir": Option((IMAGES,), paths()),
    "--calibration": Option(("8",), numbers()),
    "--device": Option(("cpu", "auto"), DEVICES),
    "--seed": Option(("0", "3"), numbers()),
    "--out": Option(("new", "saved", "empty"), paths()),
    "--json": Option(),
}  # fmt: skip
COMPARE = {
    "--grid": Option(("grid.toml",), paths()),
    "--seeds": Option(("1", "0,3"), mix((1, small_numbers()), (1, words()))),
    "--report-only": Option(("empty",), paths()),
    "--dry-run": Option(),
    "--launcher": Option(("local",), names("Ray", "slurm")),
    "--cpus": Option(("1",), numbers()),
    "--gpus": Option(("0",), numbers()),
    **{name: RUN[name] for name in (
        "--arch", "--criterion", "--scope", "--repair", "--axes", "--by", "--ratio", "--floor",
        "--multiple", "--steps", "--schedule", "--weights", "--data", "--data-dir",
        "--calibration", "--device", "--out")},
    "--finetune": Option(("none",), names("quik", "none.toml", "types.toml")),
    "--out": Option(("new", "empty"), paths()),
}  # fmt: skip
RECIPE = {
    "--epochs": Option(("1",), small_numbers()),
    "--batch-size": Option(("8",), numbers()),
    "--accumulate": Option(("1",), numbers()),
    "--optimizer": Option(("adamw", "sgd"), names("nonsense", "adam-w", "lookahead_adamw")),
    "--schedule": Option(("cosine",), names("none", "multistep", "plateau", "poly")),
    "--augment": Option(("",), names("rand", "rand-m99999", "augmix", "rand-m9-mstd0.5-inc1-x")),
    "--precision": Option(("no",), names("fp16", "fp8", "bf17")),
    "--distill": Option(),
    **{f"--{name}": Option(("0.1",), numbers()) for name in (
        "lr", "min-lr", "warmup-lr", "warmup", "weight-decay", "clip-grad", "label-smoothing",
        "mixup", "cutmix", "crop", "flip", "color-jitter", "random-erasing", "ema-decay",
        "temperature", "distill-weight", "feature-weight", "validation")},
}  # fmt: skip
FINETUNE = {
    "--recipe": Option(("quick", "good.toml"), mix((3, paths()), (1, names("quik")))),
    "--resume": Option(),
    "--workers": Option(("0",), st.sampled_from(["-1", "nan", "", "1.5"])),
    "--tracker": Option(("tensorboard",), names("tensorbord", "wandb", "mlflow")),
    "--checkpoint-minutes": Option(("10",), numbers()),
    **{name: RUN[name] for name in ("--data", "--data-dir", "--device", "--seed", "--out")},
    **RECIPE,
}
SAVED = {"--json": Option()}
EVAL = {**SAVED, **{name: RUN[name] for name in ("--data", "--data-dir", "--device")}}
COMMANDS: dict[str, tuple[dict[str, Option], dict[str, str]]] = {
    # The options, and those that are always given.
    "run": (
        RUN,
        {"--arch": "vit_micro", "--criterion": "magnitude", "--data": IMAGES, "--calibration": "8"},
    ),
    "compare": (
        COMPARE,
        {"--arch": "vit_micro", "--criterion": "magnitude", "--data": IMAGES, "--out": "new"},
    ),
    "finetune": (FINETUNE, {"--epochs": "1", "--batch-size": "8", "--data": IMAGES}),
    "eval": (EVAL, {}),
    "show": (SAVED, {}),
    "check": ({}, {}),
    "list": ({}, {}),
}
OFTEN = ("run",) * 5 + ("compare",) * 3 + ("finetune",) * 4 + tuple(COMMANDS)


@st.composite
def command_lines(draw: st.DrawFn) -> Line:
    """Return a command line; most are right but for an option or two."""
    command = draw(st.sampled_from(OFTEN))
    form = draw(st.sampled_from(["near"] * 8 + ["good", "bent", "noise"]))
    if form == "noise":
        tokens = st.one_of(words(), numbers(), paths(), st.sampled_from(sorted(RUN)))
        typed = [command, *draw(st.lists(tokens, max_size=6))]
    else:
        typed = [command, *draw(_positional(command, form)), *draw(_options(command, form))]
    if form == "bent":
        typed = _bent(typed, draw(st.integers(0, 3)), draw(st.integers(0, 20)))
    return Line(tuple(typed), draw(st.sampled_from(STREAMS)))


@st.composite
def _options(draw: st.DrawFn, command: str, form: str) -> list[str]:
    options, given = COMMANDS[command]
    chosen: dict[str, str | None] = dict(given)
    if not options:
        return []
    flags = st.sampled_from(sorted(options))
    for name in draw(st.lists(flags, max_size=2, unique=True)):
        good = options[name].good
        chosen[name] = draw(st.sampled_from(good)) if good else None
    faulty = sorted(name for name, option in options.items() if option.bad is not None)
    if faulty and form != "good":
        wrong = st.lists(st.sampled_from(faulty), min_size=1, max_size=2, unique=True)
        chosen |= {name: draw(options[name].bad) for name in draw(wrong)}
    typed = []
    for name, value in chosen.items():
        typed += [name] if value is None else [f"{name}={value}"]
    return typed


@st.composite
def _positional(draw: st.DrawFn, command: str, form: str) -> list[str]:
    if command in ("show", "eval", "finetune"):
        wrong = form != "good" and draw(st.integers(0, 3)) == 0
        return [draw(paths()) if wrong or command == "show" else "saved"]
    if command == "check":
        nouns = st.sampled_from(["criterion", "repair", "adapter", "criteria", ""])
        found = st.sampled_from(["magnitude", "lstsq", "none", "magnitude:p=1", "dimpa", "vit_b"])
        return [draw(nouns), draw(st.one_of(found, words()))]
    return []


def _bent(typed: list[str], how: int, where: int) -> list[str]:
    """Take a word out, double one, add one, or leave an option without its value."""
    at = where % len(typed)
    if how == 0 and not typed[at].startswith("--data="):  # without it, 10,000 images are tested
        return typed[:at] + typed[at + 1 :]
    if how == 1:
        return typed[: at + 1] + typed[at:]
    if how == 2:
        return [*typed[:at], "stray", *typed[at:]]
    return [*typed[:at], typed[at].partition("=")[0], *typed[at + 1 :]]
