"""What a loaded X-ray is, and the limits every image must keep to; decodes no file format.

Package-private: import these names from sgmsnet.imaging.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16
MAX_SIDE = 10_000

LARGE_PIXELS = 20_000_000
"""Images above are decoded one at a time."""
_LARGE = threading.Lock()
CHUNK = 2**18

WINDOW_8BIT = (127.5, 255.0)
SpacingAt = Literal["patient", "detector"]

# Decoders parse bytes from strangers, and stumble in all of these ways over damaged ones.
DECODING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)


# Loggers that filter by themselves: a filter of a parent does not see what its children log.
_TALKATIVE = (
    *(f"PIL.{module}" for module in ("Image", "ImageFile", "JpegImagePlugin", "PngImagePlugin", "TiffImagePlugin")),
    *("pydicom", "pylibjpeg", "pylibjpeg.utils", "openjpeg", "openjpeg.utils", "jpeg_ls"),
)


class UnreadableImageError(ValueError):
    """One sentence for a person; starts with the name given for the file, never tells who the patient is."""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A grey X-ray, dense structures bright (MONOCHROME2); nothing in it names the patient.

    Turned as EXIF and TIFF orientation say. DICOM's PatientOrientation turns nothing, because it is often wrong, and
    viewers do not turn either: it only tells whether the sides can be.
    """

    pixels: np.ndarray
    """(H, W) uint8 or uint16, read-only."""
    depth: int
    """Significant bits of the pixels, 8 to 16."""
    window: tuple[float, float]
    """(centre, width) in units of pixels: centre - width / 2 is shown black, centre + width / 2 white."""
    spacing_mm: tuple[float, float] | None
    """Distance of neighbouring pixel centres down a column and along a row, in mm; None where unknown."""
    format: str
    """PNG, JPEG, TIFF, DICOM or array."""
    usual_sides: bool = True
    """Whether the patient's right is taken to be on the image's left; not where the file says otherwise, or turned."""
    spacing_at: SpacingAt | None = None
    """Where spacing_mm holds: at the detector everything is larger. None without spacing, or where nobody knows."""
    frontal: bool = True
    """Not where the file's header says that this is another view or another part of the body."""
    header_says: str | None = None
    """What the header says against an upright frontal chest X-ray, in our own words: what follows "says that"."""

    def __post_init__(self) -> None:
        """Raise ValueError for pixels or a window that cannot be shown."""
        if self.pixels.ndim != 2 or self.pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError("The pixels of a radiograph must be a uint8 or uint16 plane.")
        if not (np.isfinite(self.window).all() and self.window[1] > 0):
            raise ValueError("The window of a radiograph must be finite and wider than nothing.")
        self.pixels.flags.writeable = False

    @property
    def header_note(self) -> str | None:
        """header_says as a sentence."""
        return None if self.header_says is None else f"The file's header says that {self.header_says}."

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @cached_property
    def display(self) -> np.ndarray:
        """The pixels through the window, uint8 (H, W), read-only: what is shown and what is prepared."""
        if self.pixels.dtype == np.uint8 and self.window == WINDOW_8BIT:
            return self.pixels
        centre, width = self.window
        values = np.arange(np.iinfo(self.pixels.dtype).max + 1, dtype=np.float64)
        shares = np.clip((values - centre) / width + 0.5, 0.0, 1.0)
        table = np.rint(shares * 255).astype(np.uint8)
        shown = look_up(table, self.pixels)
        shown.flags.writeable = False
        return shown


def from_plane(pixels: np.ndarray, format: str, *, window: tuple[float, float] | None = None) -> Radiograph:
    """Take a uint8 or uint16 plane (H, W); without a window, 8 bit get the full one and 16 the robust one."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8:
        return Radiograph(pixels, 8, window or WINDOW_8BIT, None, format)
    depth = max(8, int(pixels.max()).bit_length())
    return Radiograph(pixels, depth, window or robust_window(pixels), None, format)


def robust_window(pixels: np.ndarray) -> tuple[float, float]:
    """(centre, width) from the 0.5th to the 99.5th percentile of unsigned integers; at least 1 wide."""
    counts = np.zeros(np.iinfo(pixels.dtype).max + 1, np.int64)
    for rows in row_chunks(pixels):
        counts += np.bincount(pixels[rows].ravel(), minlength=len(counts))
    below = np.cumsum(counts)
    low, high = np.searchsorted(below, (0.005 * below[-1], 0.995 * below[-1]))
    width = max(float(high - low), 1.0)
    return float(low) + width / 2, width


def row_chunks(pixels: np.ndarray) -> Iterator[slice]:
    """The rows of (H, ...), a few at a time: NumPy copies what it counts or looks up to 8 bytes a pixel."""
    rows = max(1, CHUNK * len(pixels) // max(1, pixels.size))
    for start in range(0, len(pixels), rows):
        yield slice(start, start + rows)


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """table[index], for index (H, W)."""
    values = np.empty(index.shape, table.dtype)
    for rows in row_chunks(index):
        values[rows] = np.take(table, index[rows])
    return values


@contextmanager
def room_for(height: int, width: int) -> Iterator[None]:
    """Wait while another thread decodes a large image, if this one is large too: so many copies fit only once."""
    with _LARGE if height * width > LARGE_PIXELS else nullcontext():
        yield


def luminance(colours: np.ndarray) -> np.ndarray:
    """Grey of red, green and blue by ITU-R BT.601: (H, W, 3) uint8 or uint16 -> (H, W) of the same type."""
    if colours.dtype == np.uint8:
        return np.array(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey: np.ndarray = np.rint(colours.astype(np.float32) @ weights)
    return np.minimum(grey, np.iinfo(colours.dtype).max).astype(colours.dtype)


def check_size(height: int, width: int, name: str) -> None:
    """Raise UnreadableImageError for an image that is smaller or larger than what is read."""
    size = f"{name}: the image is {width} by {height} pixels"
    if min(height, width) < MIN_SIDE:
        raise UnreadableImageError(f"{size}, but each side must have at least {MIN_SIDE}.")
    if max(height, width) > MAX_SIDE:
        raise UnreadableImageError(f"{size}, but no side may have more than {MAX_SIDE:,}.")
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"{size}, but at most {MAX_PIXELS // 10**6} megapixels are read.")


class _Quiet:
    """How many threads are decoding, and the filters to restore when the last one is done."""

    lock = threading.Lock()
    threads = 0
    filters: warnings.catch_warnings[None] | None = None
    this_thread = threading.local()


def _may_be_logged(_: logging.LogRecord) -> bool:
    """Decoders log what they find in a header, names of patients too: pydicom as warnings, Pillow for debugging."""
    return not getattr(_Quiet.this_thread, "depth", 0)


for _name in _TALKATIVE:
    logging.getLogger(_name).addFilter(_may_be_logged)


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore the warnings of Pillow and pydicom while they read a file: the result or the error says enough.

    What they would log in this thread is dropped as well.

    warnings.catch_warnings alone is not safe in threads: two that overlap can leave their filters behind for
    good. So the first thread in sets the filters, and the last one out restores them.
    """
    _Quiet.this_thread.depth = getattr(_Quiet.this_thread, "depth", 0) + 1
    with _Quiet.lock:
        _Quiet.threads += 1
        if _Quiet.threads == 1:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            _ignore()
    try:
        yield
    finally:
        _Quiet.this_thread.depth -= 1
        with _Quiet.lock:
            _Quiet.threads -= 1
            if _Quiet.threads == 0 and _Quiet.filters is not None:
                _Quiet.filters.__exit__(None, None, None)
                _Quiet.filters = None


def _ignore() -> None:
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom|pylibjpeg|openjpeg|libjpeg|gdcm|jpeg_ls)\b")
