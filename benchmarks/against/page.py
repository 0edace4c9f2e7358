"""The page: introduction, tables and what they say."""

from collections.abc import Sequence

from page import facts, markdown

from prunekit.inputs import zoo

from .cells import ISOMORPHIC_ONLY, SAME_OUTPUT, SEED, Line
from .duels import duels
from .memory import WEIGHED
from .pruned import CALIBRATION, CLOSE, MORE_TRIES, NARROW, ROUND_TO, TRIES, WIDE
from .says import says
from .tables import convnext, mending_table, naming, norms, repairs, rows


def page(
    lines: Sequence[Line],
    dense: dict[str, float],
    memory: dict[tuple[str, str, str], float],
    mending: Sequence[tuple[str, ...]],
) -> list[str]:
    lines = [line for line in lines if line.cell.model in dense]
    plain = [line for line in lines if line.cell.repair == "none"]
    text = [
        "# prunekit next to torch-pruning's own pruner",
        "",
        INTRODUCTION,
        "",
        "Dense: " + ", ".join(f"{name} {top1:.2f}" for name, top1 in dense.items()) + ".",
        "",
        facts(SEED, 1),
        f"- data: {zoo.DATA}, all 10,000 test images; {CALIBRATION} training images for what needs"
        " any",
        "",
        "## What this says",
        "",
        *says(lines, memory),
        "",
        "## Best of theirs against best of ours",
        "",
        BEST,
        "",
        markdown(duels(plain, dense)),
        "",
        "## What has to be fixed by hand",
        "",
        MENDING,
        "",
        markdown(mending_table(mending)),
        "",
        norms(),
        "",
    ]
    for model, top1 in dense.items():
        for axes in (NARROW, WIDE):
            own = [x for x in plain if x.cell.model == model and x.cell.axes == axes]
            title = f"## {model}, {axes if model != 'convnext_micro' else convnext(axes)}"
            text += [title, "", markdown(rows(own, top1, memory)), ""]
    repaired = [line for line in lines if line.cell.repair != "none"]
    text += ["## With a repair, which torch-pruning has not", "", REPAIR, ""]
    text += [markdown(repairs(repaired, plain, dense)), ""]
    failed = [line for line in plain if line.problem]
    text += ["## What went wrong on the way", ""]
    text += [f"- {naming(line)}: {line.problem}" for line in failed] or ["Nothing raised."]
    return text


INTRODUCTION = f"""\
Points of top-1 lost in one shot, without training, where both tools remove the same fraction of
all MACs, counted by prunekit on the small model. Weights, test images, calibration
images and the seed are the same. prunekit solves for the MACs itself. torch-pruning takes a ratio
of channels; the one that meets the budget was searched for, by bisection and interpolation, in at
most {TRIES} tries, each with a fresh copy of the model, a fresh pruner and fresh dictionaries. What
ends up more than {CLOSE:.1%} of the MACs away from the budget carries an asterisk and no rank.

*{NARROW}* is what prunekit shrinks by default: MLP channels and whole heads. torch-pruning is held
to it by ignoring all layers but `qkv` and `fc1`, with `prune_num_heads`, without
`prune_head_dims`, and with one ratio for channels and heads; where that misses the budget, since
few heads make for large steps, the heads keep theirs and up to {MORE_TRIES} more tries look for
another one for the channels (the column then shows both). *{WIDE}* is what
torch-pruning's own examples do: only the classifier (and Swin's bias tables) is ignored, heads
stay and their dimensions shrink; prunekit gets the axes of the same names, which are not its
defaults. Sizes are rounded to {ROUND_TO} by torch-pruning, as in its examples; by prunekit, MLP
and width to 8 with no axis below a tenth, its defaults.

torch-pruning's importances have their defaults. `local` is uniform, `global` ranks all groups
together, `isomorphic` ranks groups of the same structure, on top of `global_pruning=True`. All
three pruners run at 50 %, the isomorphic one alone at 30 and 70 % and for
{", ".join(ISOMORPHIC_ONLY)}, to save time; {WIDE} is pruned at 50 % alone,
by the importances that the examples offer. BNScaleImportance has nothing to score, as these models
have no batch norm. GroupHessianImportance remembers the squared gradient of the last image only,
and ActivationImportance the last batch only (importance.py asks for names where it stores
parameters, and overwrites); they are used as they are. prunekit's criteria run in their own scopes.
Everything ran once, with one seed: `random` is one draw on either side.

*as masked*: the largest difference from the output of the large model with the same slices
silenced, over that output's largest value, on one image of noise; norms average over what is left.
"exact" is below {SAME_OUTPUT:g}. *statistics*: seconds for gradients or activations of the
{CALIBRATION} images, which torch-pruning's rows of one model share; fisher and hessian take one
gradient per image. *cut*: seconds to trace, score, choose and remove, once, the model being built
already. *besides*: prunekit's proof and count of MACs; torch-pruning's other tries. All are
wall-clock, of one run each, both tools in one process in turn: what else the machine does shows.
*memory*: by how much the resident set grew at its peak (VmHWM in /proc/self/status), MB, from
before the statistics to the end of one cut at 50 %, in a fresh process that had built the model,
opened the images and pruned a toy with both tools; prunekit's includes the proof, torch-pruning's
no search. Measured for {" and ".join(WEIGHED)} only, {NARROW}, isomorphic."""


BEST = """\
On images that only one of the two gets right, and the p of McNemar's exact test. The best of each
side was picked on the same images that are counted here, which favours the side with more
candidates; those that missed the budget are no candidates. No repairs."""


MENDING = """\
Half of the channels, by magnitude with the isomorphic pruner. *documented* is what the examples
set after pruning: `num_heads` from the pruner, `head_dim` and `scale`. Their PatchMerging pruner
is used in all columns. *mended*, used everywhere else on this page, adds what current timm needs:
`attn_dim`, the kept columns of Swin's relative position bias table (the examples have the pruner
ignore it), and heads counted from what left, since the pruner counts heads down even where it then
takes none. *folded* also scales the queries by the root of new over old head dimension; without
that, fewer head dimensions mean another softmax temperature, so that the small model does not
compute what the masked one does. Where a model runs and is off, nothing says so."""


REPAIR = """\
`--repair lstsq` on the same images without labels; *statistics* contains it."""
