"""Decode one image file: only JPEG and PNG, of bounded size, and at no higher resolution than a crop needs.

Pixels are used as they are stored. An EXIF tag that asks to rotate an image is ignored: pipelines of published ImageNet
results ignore it too, and a network that learned from stored pixels should be tested on stored pixels. Transparency is
ignored too, which shows the colours beneath it, and 16-bit grey keeps its upper 8 bits. If that may be a mistake, a
note says so.

Shape suffixes: H rows, W columns, C channels (3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from sobolev.images.crops import Crop

FORMATS = ("JPEG", "PNG")  # Pillow may open only these, because some of its other formats start programs
MAX_PIXELS = 1 << 25  # decoded pixels of one image, which take 128 MiB
DARK = 1 << 12  # below it, 16-bit grey probably holds the 12 bits of a sensor, of which only 4 would remain

# Notes on images that may be a mistake, which follow a count: "3 of the 100 images in a batch ..."
TURNED = "ask by EXIF to be rotated; pixels are used as they are stored"
TRANSPARENT = "are partly transparent; the colours beneath are used"
NEARLY_BLACK = "have 16-bit grey values below a sixteenth of the maximum, so they are nearly black: scale them"


def decode(path: Path, size: int, crop: Crop) -> tuple[np.ndarray, list[str]]:
    """A crop of an image as RGB pixels (size, size, 3), and notes on what may be a mistake.

    If the crop has at least twice the required size, a JPEG is decoded at half its resolution or less.

    Raises:
        Exception: Pillow raises many kinds for an image that it cannot read.
    """
    box_of, mirrored = crop
    if not path.is_file() and path.exists():
        raise OSError("no regular file")  # reading a pipe or a device may never end
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        left, top, right, bottom = box_of(width, height)
        excess = max(min(right - left, bottom - top) / size, 1)
        reduced = image.draft("RGB", (int(width / excess), int(height / excess)))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, expected {MAX_PIXELS:,} at most")
        scale = reduced[1][2] / width if reduced else 1  # 1, 1/2, 1/4 or 1/8
        box = (left * scale, top * scale, min(right * scale, image.width), min(bottom * scale, image.height))
        notes = [*_notes(image)]
        picture: Image.Image = image
        if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
            picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels_HWC = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box))
    return pixels_HWC[:, ::-1] if mirrored else pixels_HWC, notes


def _notes(image: Image.Image) -> Iterator[str]:
    if _to_be_turned(image):
        yield TURNED
    if image.mode.startswith("I"):
        if np.asarray(image).max() < DARK:
            yield NEARLY_BLACK
    elif image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        yield TRANSPARENT


def _to_be_turned(image: Image.Image) -> bool:
    """Whether EXIF asks to rotate or mirror the image. An unreadable tag does not count."""
    with suppress(Exception):
        return "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False
