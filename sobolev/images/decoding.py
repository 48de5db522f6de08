"""Decoding one image file: only JPEG and PNG, of a bounded size, and no more of it than a crop needs.

Pixels are taken as they are stored. An EXIF tag that asks for a picture to be turned is not followed: published results
on ImageNet are of pipelines that do not look at it, and a network that learned from pixels as stored is to be tested on
pixels as stored. Neither is transparency, which leaves the colours beneath it, and 16 bits of grey keep their upper 8.
Where that may not be what is meant, a note says so.

Shape suffixes: H rows, W columns, C channels (3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from sobolev.images.crops import Crop

FORMATS = ("JPEG", "PNG")  # all that Pillow is asked for: some of the other formats that it knows start programs
MAX_PIXELS = 1 << 25  # decoded of one image, which take 128 MiB
DARK = 1 << 12  # of 16 bits of grey: what sensors of 12 bits leave, of which 4 remain

# What may not be meant, of a number of images: "3 of the 100 images in a batch ..."
TURNED = "are to be turned by EXIF; pixels are taken as they are stored"
TRANSPARENT = "are transparent in places; the colours beneath are taken"
NEARLY_BLACK = "have 16 bits of grey and use less than a sixteenth of them, so that they are nearly black: scale them"


def decode(path: Path, size: int, crop: Crop) -> tuple[np.ndarray, list[str]]:
    """A crop of an image as RGB pixels (size, size, 3), and what may not be meant.

    If the crop has twice the size that is needed or more, a JPEG is decoded at half its resolution or less.

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
    elif image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        yield TRANSPARENT


def _to_be_turned(image: Image.Image) -> bool:
    """Whether EXIF asks for the picture to be turned or mirrored. A tag that cannot be read does not."""
    with suppress(Exception):
        return "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False
