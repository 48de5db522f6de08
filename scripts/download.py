"""Download image data sets from their publishers, checked against the published checksums.

python -m scripts.download cifar10                  170 MB to data/cifar-10-batches-bin
python -m scripts.download mnist --folder elsewhere  12 MB to elsewhere/mnist
python -m scripts.download imagenette                99 MB to data/imagenette2-160

A data set that exists already is checked and left as it is. The digits need no download. ImageNet itself is available
only from image-net.org: unpack it to data/imagenet/{train,val}/<wnid>/*.JPEG.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.runner.command_line import one_line_errors
from experiments.synthetic_gradients.downloads import fetch
from sobolev.images import IN_MEMORY, SOURCES, ImageError, ImageFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--folder", type=Path, default=Path("data"), help="folder of data sets")
    arguments = parser.parse_args()
    with one_line_errors():
        try:
            path = fetch(arguments.name, arguments.folder)
            if arguments.name in IN_MEMORY:
                n = [len(IN_MEMORY[arguments.name](arguments.folder, split)) for split in ("train", "test")]
            else:
                n = [len(ImageFolder(path, split)) for split in ("train", "test")]
        except (ImageError, PermissionError) as error:
            sys.exit(f"error: {error}")
    print(f"{path}: {n[0]:,} + {n[1]:,} images")


if __name__ == "__main__":
    main()
