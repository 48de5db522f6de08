"""Images for classification: held in memory as uint8, or read from folders as they are needed.

Pixels stay uint8 until batches are augmented and normalised, on the device that trains. No pickle is ever loaded. A
set that is missing or damaged is refused with an `ImageError`.
"""

from sobolev.images.augmentation import photometric, shift_and_flip
from sobolev.images.download import SOURCES, download
from sobolev.images.folder import ImageFolder
from sobolev.images.image_set import ImageError, ImageSet
from sobolev.images.in_memory import IN_MEMORY

__all__ = [
    "IN_MEMORY",
    "SOURCES",
    "ImageError",
    "ImageFolder",
    "ImageSet",
    "download",
    "photometric",
    "shift_and_flip",
]
