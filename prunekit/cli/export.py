"""prunekit export: write a saved model to files that run without prunekit."""

from __future__ import annotations

import argparse
import json

from .common import add_data, add_examples, add_output, place, progress, say_saved, warn

TARGETS = ("onnx", "torch-export", "timm", "hub-folder")


EXAMPLES = """
prunekit export vit_b-half --to onnx
prunekit export vit_b-half --to onnx --quantize int8 --data imagenet --out vit_b-int8
prunekit export vit_b-half --to torch-export --no-timing
prunekit export resnet50-half --to onnx --dynamic-size
prunekit export vit_b-half --to hub-folder && hf upload user/vit_b-half vit_b-half-hub-folder
"""


def add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", type=place, help="what `run --out` or `finetune` wrote, or hf-hub:user/name")
    add("--to", required=True, choices=TARGETS, help="in which form")
    add("--out", type=place, help="directory to write (DIRECTORY-TO)")
    add("--precision", default="fp32", choices=("fp32", "fp16"), help="of an ONNX file (fp32)")
    add("--quantize", choices=("int8",), help="an ONNX file, on calibration images")
    add("--dynamic-size", action="store_true", help="let the file take images of other sizes")
    add_data(parser)
    add("--calibration", type=int, default=128, help="images that int8 is calibrated on (128)")
    add("--no-timing", dest="timed", action="store_false", help="measure no latency")
    add("--no-evaluation", dest="evaluate", action="store_false", help="measure no accuracy")
    add_output(parser)
    add_examples(parser, EXAMPLES)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with progress("load torch", quiet=options.quiet) as on_step:
        from ..exporting.export import export

        exported = export(
            options.directory,
            options.to,
            options.out,
            precision=options.precision,
            quantize=options.quantize,
            dynamic_size=options.dynamic_size,
            data=options.data,
            data_dir=options.data_dir,
            calibration=options.calibration,
            timed=options.timed,
            evaluate=options.evaluate,
            on_step=on_step,
        )
    if options.quiet:
        warn(exported.warnings)
        return 0
    if options.json:
        print(json.dumps(exported.report(), indent=1))
        return 0
    from rich.console import Console

    from ..report import render_export

    Console(highlight=False).print(render_export(exported.report()))
    say_saved(exported.directory)
    return 0
