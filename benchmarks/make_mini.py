"""Make `fashion-mnist-mini`, the part of Fashion-MNIST that ships inside the package.

It holds the official 10,000 test images, byte for byte, and the first 5,000 of the 60,000
training images for calibration, in the original IDX format.

    python benchmarks/make_mini.py [--source DIR] [--out DIR]
"""

import argparse
import gzip
import shutil
import struct
from pathlib import Path

CALIBRATION_IMAGES = 5_000
SOURCE = Path("/usr/share/datasets/fashion-mnist")
OUT = Path(__file__).parents[1] / "prunekit" / "datasets" / "fashion-mnist-mini"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in ("images-idx3", "labels-idx1"):
        test = f"t10k-{kind}-ubyte.gz"
        shutil.copyfile(args.source / test, args.out / test)
        train = f"train-{kind}-ubyte.gz"
        whole = gzip.decompress((args.source / train).read_bytes())
        # mtime=0 and no file name make the archive the same on every machine.
        (args.out / train).write_bytes(gzip.compress(first(whole, CALIBRATION_IMAGES), mtime=0))


def first(idx: bytes, count: int) -> bytes:
    """Return an IDX file that holds the first `count` items of another."""
    dims = idx[3]
    shape = struct.unpack(f">{dims}I", idx[4 : 4 + 4 * dims])
    item = 1
    for size in shape[1:]:
        item *= size
    header = idx[:4] + struct.pack(f">{dims}I", count, *shape[1:])
    return header + idx[4 + 4 * dims :][: count * item]


if __name__ == "__main__":
    main()
