"""The report: every part that is there, in order."""

from __future__ import annotations

from collections.abc import Sequence

from .parts import Part, Plain, Settings, read, write_atomically

HEAD = """\
# DIMAP, checked against its paper

Yang He and Joey Tianyi Zhou, *Data-independent Module-Aware Pruning for Hierarchical Vision
Transformers*, ICLR 2024, arXiv:2404.13648. `python benchmarks/dimap_paper.py` makes this page; each
part says with what it was made, and its numbers lie beside this page as JSON."""
FOOT = """\
## With ImageNet

`prunekit` comes without ImageNet and without weights that were trained on it. With a folder of its
images (`train` and `val`, a sub-folder per class in each) and pretrained weights,

```console
$ python benchmarks/dimap_paper.py --arch swin_t,swin_s,swin_b --weights pretrained --data DIR \\
      --workers 16 --precision bf16 --out runs/imagenet
```

makes Tables 1, 3 and 4 and the figures for the paper's own models, fine-tuned by its recipe
(its file is `dimap.toml`), twelve runs of 30 epochs. Unlike the paper, a tenth of the training
images is held out and chooses the epoch that is kept (`--validation 0.01` holds out fewer).
`--weights` also takes a file for each architecture. `--finetune none` leaves out what needs
training: all of Table 3, and Tables 1 and 4 one shot. It goes on where it was stopped. The figures
alone need no images: `--parts pictures --arch swin_s --weights FILE`. `--help` has the rest."""


def write_report(settings: Settings, parts: Sequence[Part]) -> None:
    """Write the report of all parts that have been run."""
    found = [(part, read(settings.out, part.name)) for part in parts]
    sections = [_section(part, kept) for part, kept in found if kept]
    write_atomically(settings.out / "report.md", "\n\n".join([HEAD, *sections, FOOT]) + "\n")


def _section(part: Part, kept: Plain) -> str:
    return f"## {part.title}\n\n{part.page(kept['data'])}\n\n{_made(kept['made'])}"


def _made(made: Plain) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (
        f"<sub>`{made['command']}`, seed {made['seed']}, {made['device']}, threads "
        f"{made['threads']}, {versions}</sub>"
    )
