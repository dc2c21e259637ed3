"""Damaged image files: small and real seeds of every format, and seeded ways to break them. Reads nothing back."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from tests.needs import ROOT

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PIXELS = np.add.outer(np.arange(48) * 3, np.arange(64) * 2).astype(np.uint8)

LARGE = {"PNG": (7000, 7142), "DICOM": (5700, 5700)}
"""Rows and columns of 16 bits that are still read: of nearly 50 megapixels, and of nearly 64 MB."""


def _png() -> Iterator[bytes]:
    for mode in ("L", "1", "P", "LA", "RGB", "RGBA"):
        yield encoded(Image.fromarray(PIXELS).convert(mode), "PNG")
    yield encoded(Image.fromarray(PIXELS.astype(np.uint16) * 200), "PNG")


def _jpeg() -> Iterator[bytes]:
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            yield encoded(Image.fromarray(PIXELS).convert(mode), "JPEG", progressive=progressive)


def _tiff() -> Iterator[bytes]:
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield encoded(Image.fromarray(PIXELS), "TIFF", compression=compression)
    yield encoded(Image.fromarray(PIXELS.astype(np.uint16) * 200), "TIFF")
    yield encoded(Image.fromarray(PIXELS.astype(np.float32)), "TIFF")
    yield encoded(Image.fromarray(PIXELS), "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)])


def _dicom() -> Iterator[bytes]:
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        for deep in (False, True):
            yield dicom(PIXELS.astype(np.uint16) * 16 if deep else PIXELS, syntax)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """An image as a file of that format."""
    buffer = BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """A small X-ray as a DICOM file of uint8 or uint16 (H, W), with elements added or changed by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelSpacing = 100, 200, [0.2, 0.2]
    dataset.PixelData = pixels.tobytes()
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def large(kind: str) -> bytes:
    """A PNG or DICOM file with as many pixels as LARGE says."""
    pixels = np.broadcast_to(np.arange(LARGE[kind][1], dtype=np.uint16) % 4096, LARGE[kind])
    if kind == "DICOM":
        return dicom(pixels)
    return encoded(Image.fromarray(np.ascontiguousarray(pixels)), kind, compress_level=1)


def seeds(real: Path | None = None) -> tuple[list[bytes], list[bytes]]:
    """(small, large): one of each kind of file that we can write, and X-rays: the examples and those of `real`."""
    small = [*_png(), *_jpeg(), *_tiff(), *_dicom()]
    examples = sorted((ROOT / "examples").glob("*_adult_*.*"))[:6]
    files = [*examples, *(sorted(real.glob("*.dcm")) if real else [])]
    return small, [path.read_bytes() for path in files]


def damaged(number: int, small: list[bytes], large: list[bytes], *, seed: int = 7) -> bytes:
    """The input of that number: always the same bytes for the same seeds."""
    dice = random.Random(f"{seed}:{number}")
    data = bytearray(dice.choice(large if large and dice.random() < 0.04 else small))
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        dice.choice(_WAYS)(data, dice, small)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and dice.random() < 0.7:
        _repair_checksums(data)
    return bytes(data)


def _position(data: bytearray, dice: random.Random) -> int:
    """Anywhere, but half the time in the header, where it hurts."""
    end = min(len(data), 600) if dice.random() < 0.5 else len(data)
    return dice.randrange(end) if end else 0


def _flip(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    if data:
        data[_position(data, dice)] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    at = _position(data, dice)
    data[at : at + dice.randint(1, 16)] = dice.randbytes(dice.randint(1, 16))


def _number(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    size, order = dice.choice((1, 2, 4)), dice.choice(("big", "little"))
    value = dice.choice(INTERESTING) & (256**size - 1)
    at = _position(data, dice)
    data[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def _truncate(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    del data[_position(data, dice) :]


def _remove(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    at = _position(data, dice)
    del data[at : at + dice.randint(1, 64)]


def _repeat(data: bytearray, dice: random.Random, _: list[bytes]) -> None:
    at = _position(data, dice)
    data[at:at] = data[at : at + dice.randint(1, 256)] * dice.choice((1, 2, 50))


def _splice(data: bytearray, dice: random.Random, small: list[bytes]) -> None:
    other = dice.choice(small)
    at = _position(data, dice)
    data[at:] = other[min(at, len(other)) :]


_WAYS: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    _flip,
    _flip,
    _overwrite,
    _number,
    _number,
    _truncate,
    _remove,
    _repeat,
    _splice,
)


def _repair_checksums(data: bytearray) -> None:
    """So that damage inside a PNG chunk gets past its checksum, to the code behind it."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
