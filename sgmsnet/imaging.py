"""X-ray files and arrays in, the model's input out, and the way back; never imports a network or a runtime.

Content decides what a file is, never its suffix. Limits are checked before pixels are decoded.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from sgmsnet import raster
from sgmsnet.radiograph import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    Radiograph,
    UnreadableImageError,
    check_size,
    from_plane,
    luminance,
    quiet,
)

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MIN_SIDE",
    "SUFFIXES",
    "Geometry",
    "Radiograph",
    "UnreadableImageError",
    "is_dicom",
    "load",
    "load_mask",
    "prepare",
]

Source = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"})
"""What is collected from folders, lower case; others are too if is_dicom says yes."""


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in the model's input, to bring the model's planes back onto the image."""

    image_height: int
    image_width: int
    model_height: int
    model_width: int
    top: int
    left: int
    height: int
    width: int

    def restore(self, plane: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
        """float32 (h, w) on the model's input at any resolution -> float32 on the image, bilinear.

        The padding is cut away at the plane's own resolution, between its pixels if need be. The result has
        the image's size, or the height and width asked for. Raises ValueError for what is not a plane.
        """
        inner, (x0, y0, x1, y1) = self._without_padding(plane)
        size = (width or self.image_width, height or self.image_height)
        return np.array(Image.fromarray(inner).resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))

    def restore_above(self, plane: np.ndarray, cut: float) -> np.ndarray:
        """Bool (image_height, image_width): restore(plane) > cut, resizing only the rectangle where that can be."""
        mask = np.zeros((self.image_height, self.image_width), np.bool_)
        inner, (x0, y0, x1, y1) = self._without_padding(plane)
        above = inner > cut
        rows = _reach(np.flatnonzero(above.any(axis=1)), y0, (y1 - y0) / self.image_height, self.image_height)
        columns = _reach(np.flatnonzero(above.any(axis=0)), x0, (x1 - x0) / self.image_width, self.image_width)
        if rows is None or columns is None:
            return mask  # between values that do not pass, none does: a healthy chest costs no resizing
        top, bottom, upper, lower = rows
        left, right, near, far = columns
        size = (right - left, bottom - top)
        part = Image.fromarray(inner).resize(size, Image.Resampling.BILINEAR, box=(near, upper, far, lower))
        mask[top:bottom, left:right] = np.asarray(part) > cut
        return mask

    def _without_padding(self, plane: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """The part of a plane that the image fills, and where in it the image lies: left, top, right, bottom."""
        if plane.ndim != 2 or 0 in plane.shape:
            raise ValueError("Only a plane (h, w) can be restored.")
        y0, y1 = self._span(self.top, self.height, self.model_height, plane.shape[0])
        x0, x1 = self._span(self.left, self.width, self.model_width, plane.shape[1])
        # Whole rows and columns of padding go first: Pillow would blend the nearest of them into the border.
        rows, columns = (int(y0), int(np.ceil(y1))), (int(x0), int(np.ceil(x1)))
        inner = np.ascontiguousarray(plane[slice(*rows), slice(*columns)], np.float32)
        return inner, (x0 - columns[0], y0 - rows[0], x1 - columns[0], y1 - rows[0])

    def inside(self, plane: np.ndarray) -> np.ndarray:
        """A plane of the model's input size -> the part of it that the image fills, a view."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]

    @staticmethod
    def _span(start: int, length: int, model: int, cells: int) -> tuple[float, float]:
        return start * cells / model, min((start + length) * cells / model, float(cells))


def _reach(found: np.ndarray, start: float, step: float, length: int) -> tuple[int, int, float, float] | None:
    """Along one side: which of `length` pixels the cells found, in order, can reach; the same range counted in cells.

    A pixel is `step` cells wide, the first begins at cell `start`. None if no cell was found.
    """
    if not len(found):
        return None
    wide = max(1.0, step)  # a pixel blends the cells up to this far from its centre
    first = max(0, int((found[0] + 0.5 - wide - start) / step - 0.5))
    last = min(length, int((found[-1] + 0.5 + wide - start) / step + 0.5) + 1)
    return first, last, start + first * step, start + last * step


def load(source: Source, *, name: str | None = None) -> Radiograph:
    """Read a PNG, JPEG, TIFF or DICOM file, its bytes, or an array.

    Arrays are uint8, uint16, bool, or float in [0, 1], of shape (H, W) or (H, W, 3). Raises
    UnreadableImageError with one sentence that begins with `name`; without one, with the file's own name,
    "upload" or "array".
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, _printable(name or "array"))
    label, data = _label_and_bytes(source, name)
    with quiet():
        return _from_bytes(data, label)


def load_mask(path: Path) -> np.ndarray:
    """Read a mask that a person drew, a PNG or TIFF file -> bool (H, W); raises UnreadableImageError as `load` does.

    Drawn is what is not transparent, and above 0 in any channel. Strokes of one colour on nothing count whatever it is.
    """
    label, data = _label_and_bytes(path, None)
    with quiet():
        format = "DICOM" if is_dicom(data[:132]) else raster.format_of(data)
        if format not in ("PNG", "TIFF"):
            found = f", not {format}" if format else ""
            raise UnreadableImageError(f"{label}: a mask must be a PNG or TIFF file{found}.")
        return raster.decode_mask(data, format, label)


def prepare(radiograph: Radiograph, *, height: int, width: int) -> tuple[np.ndarray, Geometry]:
    """Window, resize with antialiasing, keep the aspect, centre, pad with 0 -> uint8 (1, height, width).

    The Geometry says where the image lies in it.
    """
    scale = min(height / radiograph.height, width / radiograph.width)
    inner_height = min(height, max(1, round(radiograph.height * scale)))
    inner_width = min(width, max(1, round(radiograph.width * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    image = Image.fromarray(radiograph.display)
    if image.size != (inner_width, inner_height):
        image = image.resize((inner_width, inner_height), Image.Resampling.BILINEAR)  # antialiased in Pillow
    planes = np.zeros((1, height, width), np.uint8)
    planes[0, top : top + inner_height, left : left + inner_width] = np.asarray(image)
    geometry = Geometry(
        image_height=radiograph.height,
        image_width=radiograph.width,
        model_height=height,
        model_width=width,
        top=top,
        left=left,
        height=inner_height,
        width=inner_width,
    )
    return planes, geometry


def is_dicom(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file, or the first 132 bytes of one, are DICOM by content; raises OSError for no file."""
    if not isinstance(source, bytes):
        with Path(source).open("rb") as file:
            source = file.read(132)
    if source[128:132] == b"DICM":
        return True
    # No preamble: the first element is of group 0002 or 0008, little endian, with a short length or a type.
    group, kind = source[:2], source[4:8]
    named = kind[:2].isalpha() and kind[:2].isupper()
    short = len(kind) == 4 and kind[1:] == bytes(3)
    return group in (b"\x02\x00", b"\x08\x00") and (named or short)


def _printable(name: str) -> str:
    """A name for a message: on one line and not endless, whatever a stranger called the file."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:200]


def _too_large(name: str) -> str:
    return f"{name}: the file is larger than {MAX_BYTES // 2**20} MB."


def _label_and_bytes(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview, name: str | None
) -> tuple[str, bytes]:
    """What a message calls a file, and its bytes: some, and not too many."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        label, data = _printable(name or "upload"), bytes(source)
    else:
        label = _printable(name or Path(source).name)
        data = _read_file(Path(source), label)
    if not data:
        raise UnreadableImageError(f"{label}: the file is empty.")
    if len(data) > MAX_BYTES:
        raise UnreadableImageError(_too_large(label))
    return label, data


def _read_file(path: Path, name: str) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError(f"{name}: this is not a file.")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(_too_large(name))
        with path.open("rb") as file:
            return file.read(status.st_size + 1)  # with room for MAX_BYTES, Python would set 64 MB aside each time
    except FileNotFoundError:
        raise UnreadableImageError(f"{name}: there is no such file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(f"{name}: the file cannot be opened.") from None


def _from_bytes(data: bytes, name: str) -> Radiograph:
    if not is_dicom(data[:132]):
        if format := raster.format_of(data):
            return from_plane(raster.decode(data, format, name), format)
        raise UnreadableImageError(f"{name}: this is not a PNG, JPEG, TIFF or DICOM file.")
    from sgmsnet import dicom  # pydicom takes a while to import, and most files do without

    return dicom.read(data, name)


def _from_array(array: np.ndarray, name: str) -> Radiograph:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise UnreadableImageError(f"{name}: an array must have the shape (H, W) or (H, W, 3).")
    check_size(array.shape[0], array.shape[1], name)
    window = None
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also catches NaN
            raise UnreadableImageError(f"{name}: floating-point pixels must lie between 0 and 1.")
        array, window = np.rint(array.astype(np.float64) * 65535).astype(np.uint16), (32767.5, 65535.0)
    elif array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UnreadableImageError(f"{name}: an array must be uint8, uint16, bool or floating point.")
    native = array.astype(array.dtype.newbyteorder("="))  # always a copy: the caller may write into theirs
    return from_plane(luminance(native) if native.ndim == 3 else native, "array", window=window)
