"""From the bytes of a PNG, JPEG or TIFF file to an upright grey plane; knows nothing of DICOM.

Package-private: call sgmsnet.imaging.load.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sgmsnet.radiograph import DECODING_ERRORS, UnreadableImageError, check_size, room_for

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
# Not through Image.open, which warns of sizes by a limit that is not ours, and knows more formats.
_READERS = {"PNG": PngImageFile, "JPEG": JpegImageFile, "TIFF": TiffImageFile}
_WHITE_IS_ZERO = 0
_BITS, _ORIENTATION, _PHOTOMETRIC = 258, 274, 262


def format_of(data: bytes) -> str | None:
    """PNG, JPEG or TIFF by the first bytes; None for anything else."""
    return next((format for magic, format in _MAGIC.items() if data.startswith(magic)), None)


def decode(data: bytes, format: str, name: str) -> np.ndarray:
    """Grey pixels, upright, uint8 or uint16 (H, W); UnreadableImageError calls the file `name`."""
    return _decoded(data, format, name, _grey)


def decode_mask(data: bytes, format: str, name: str) -> np.ndarray:
    """What a person has drawn, upright, bool (H, W): what is seen, and above 0 in any channel.

    Drawn in one colour on nothing, black as well: all that is seen. UnreadableImageError calls the file `name`.
    """
    return _decoded(data, format, name, _drawn)


def _decoded(data: bytes, format: str, name: str, plane: Callable[[Image.Image, str], np.ndarray]) -> np.ndarray:
    try:
        image: ImageFile.ImageFile = _READERS[format](BytesIO(data))  # reads the header only
        check_size(image.height, image.width, name)
        if getattr(image, "is_animated", False):
            raise UnreadableImageError(f"{name}: the {format} file holds more than one image.")
        _check_depth(image, name)
        if format == "JPEG" and image.mode == "RGB":
            image.draft("L", None)  # the brightness is stored apart: no need to decode the colours
        with room_for(image.height, image.width):
            image.load()
            return _upright(plane(image, name), _orientation(image))
    except UnreadableImageError:
        raise
    except DECODING_ERRORS:
        raise UnreadableImageError(f"{name}: the {format} file is damaged or ends early.") from None


def _check_depth(image: ImageFile.ImageFile, name: str) -> None:
    """Of several channels of 16 bits Pillow keeps the high bytes alone: an image of 12 bits would become black."""
    bits = max(getattr(image, "tag_v2", {}).get(_BITS, (8,)))  # a TIFF; of a PNG, Pillow tells by its raw mode
    if (bits > 8 or ";16" in str(image.tile)) and not image.mode.startswith(("I", "F")):
        raise UnreadableImageError(f"{name}: images of 16 bits are read in grey only, without colours or transparency.")


def _grey(image: Image.Image, name: str) -> np.ndarray:
    """Any of Pillow's modes that PNG, JPEG and TIFF files have -> uint8 or uint16 (H, W)."""
    if image.mode.startswith("I"):
        pixels = np.array(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnreadableImageError(f"{name}: only pixels of 8 or 16 bits are read.")
        pixels = pixels.astype(np.uint16, copy=False)
        # Pillow turns WhiteIsZero over for 8 bits, not for 16.
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return 65535 - pixels if inverted else pixels
    if image.mode == "F":
        raise UnreadableImageError(f"{name}: floating-point pixels are not read, only 8 or 16 bits.")
    if image.mode == "LAB":
        return np.array(image.getchannel("L"))
    if image.has_transparency_data:  # what cannot be seen is background
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("L"))


def _drawn(image: Image.Image, name: str) -> np.ndarray:
    """Any of Pillow's modes that PNG and TIFF files have -> bool (H, W). As grey, (0, 0, 1) and black would be lost."""
    if image.mode.startswith(("I", "F")) or (image.mode in ("1", "L", "LAB") and not image.has_transparency_data):
        return _grey(image, name) > 0
    red, green, blue, alpha = image.convert("RGBA").split()
    seen = np.asarray(alpha) > 0
    if seen.any() and not seen.all() and all(_is_one_value(np.asarray(c)[seen]) for c in (red, green, blue)):
        return seen
    drawn = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue)) > 0
    if image.mode == "P" and _is_one_value(drawn):  # labels on a background that is not black, or all of them black
        index = np.asarray(image)
        drawn = drawn if _is_one_value(index) else index > 0
    return seen & drawn


def _is_one_value(values: np.ndarray) -> bool:
    return bool(values.min() == values.max())


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read. Call after load()."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DECODING_ERRORS:
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 2 to 4 are flips, 5 to 8 the same of the transposed image."""
    if orientation >= 5:
        pixels = pixels.T
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]
