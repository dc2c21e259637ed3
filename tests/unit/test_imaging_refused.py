"""Files and arrays that are no images, too large or damaged: each is refused with one sentence, or read."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sgmsnet import imaging
from sgmsnet.imaging import UnreadableImageError, load
from tests.unit.image_files import RAMP, encoded


def refusal(source: object, name: str | None = None) -> str:
    """The sentence with which a source is refused; it must be one, and the only thing a person sees."""
    with pytest.raises(UnreadableImageError) as caught:
        load(source, name=name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0
    assert caught.value.__cause__ is None
    return text


def png(pixels: np.ndarray) -> bytes:
    """Channels (H, W, K) as a PNG of grey or colours, with or without alpha: Pillow writes none of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, *, order: str = "<", planar: bool = False) -> bytes:
    """Grey or colours (H, W, K) as an uncompressed TIFF of one strip, or of one for each channel."""
    height, width, channels = pixels.shape
    data = (pixels.transpose(2, 0, 1) if planar else pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = channels if planar else 1
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * channels,
        259: [1],
        262: [2 if channels > 1 else 1],
    }
    tags |= {273: [0] * strips, 277: [channels], 278: [height], 279: [len(data) // strips] * strips}
    tags[284] = [2 if planar else 1]
    start = 8 + 2 + 12 * len(tags) + 4
    at = start + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [at + index * len(data) // strips for index in range(strips)]
    entries, further = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, further = struct.pack(f"{order}I", start + len(further)), further + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    magic = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return magic + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + further + data


def channels(count: int, dtype: type) -> np.ndarray:
    """The ramp in each of `count` channels, an even number of which has an opaque one last."""
    pixels = np.repeat(RAMP.astype(dtype)[..., None], count, axis=2)
    if count in (2, 4):
        pixels[..., -1] = np.iinfo(dtype).max
    return pixels


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_png_channels_of_16_bits_are_refused_but_for_grey(count: int) -> None:
    assert np.array_equal(load(png(channels(count, np.uint8))).pixels, RAMP)
    wide = png(channels(count, np.uint16) * 16)  # a screenshot of 12 bits: the high bytes are almost black
    if count == 1:
        assert np.array_equal(load(wide).pixels, RAMP.astype(np.uint16) * 16)
    else:
        assert "16 bits are read in grey only" in refusal(wide, name="chest.png")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_channels_of_16_bits_are_refused_but_for_grey(order: str, planar: bool) -> None:
    assert np.array_equal(load(tiff(channels(3, np.uint8), order=order, planar=planar)).pixels, RAMP)
    assert np.array_equal(load(tiff(channels(1, np.uint16), order=order)).pixels, RAMP)
    wide = tiff(channels(3, np.uint16) * 16, order=order, planar=planar)
    assert "16 bits are read in grey only" in refusal(wide, name="chest.tif")


@pytest.mark.parametrize("shape", [(15, 100), (100, 15), (10_001, 16), (16, 10_001), (8000, 6251)])
def test_sizes_outside_the_limits_are_refused_before_decoding(shape: tuple[int, int]) -> None:
    image = Image.new("1", shape[::-1])
    for format in ("PNG", "TIFF"):
        assert refusal(encoded(image, format), "x.png").startswith(f"x.png: the image is {shape[1]} by ")
    assert "pixels" in refusal(np.broadcast_to(np.uint8(0), shape))


def test_a_bomb_is_refused_quickly_and_without_a_warning() -> None:
    header = bytearray(encoded(RAMP))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    start = time.perf_counter()
    refusal(bytes(header))
    assert time.perf_counter() - start < 1


def test_the_largest_sizes_are_read_without_a_warning() -> None:
    assert load(encoded(Image.new("1", (10_000, 5000)))).width == 10_000
    assert load(np.zeros((16, 16), np.uint8)).height == 16


def test_files_that_are_too_large_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(imaging.MAX_BYTES + 1)
    assert refusal(path) == "large.png: the file is larger than 64 MB."
    assert refusal(bytes(imaging.MAX_BYTES + 1)) == "upload: the file is larger than 64 MB."


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("This is a letter and not a picture.")
    assert refusal(tmp_path / "note.png") == "note.png: this is not a PNG, JPEG, TIFF or DICOM file."
    assert refusal(tmp_path / "none.png") == "none.png: there is no such file."
    assert refusal(tmp_path, "folder") == "folder: this is not a file."
    assert refusal(b"", "empty.dcm") == "empty.dcm: the file is empty."
    assert refusal("a\0b").startswith("a?b: ")
    for format in ("GIF", "BMP", "WEBP", "ICO", "PPM", "TGA", "JPEG2000"):
        assert refusal(encoded(Image.fromarray(RAMP), format)).startswith("upload: this is not")


def test_a_name_cannot_break_the_sentence() -> None:
    text = refusal(b"", "x\r\n\x1b[31m.png" + "y" * 500)
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_more_than_one_image_is_refused_and_a_single_frame_is_not(format: str) -> None:
    images = [Image.fromarray(RAMP), Image.fromarray(RAMP.T.copy().reshape(RAMP.shape))]
    assert "more than one image" in refusal(encoded(images[0], format, save_all=True, append_images=images[1:]))
    assert load(encoded(images[0], format, save_all=True)).height == 40


def test_floating_point_and_wide_tiffs_are_refused() -> None:
    ramp = RAMP.astype(np.float32)
    assert "floating-point" in refusal(encoded(ramp, "TIFF"))
    assert "floating-point" in refusal(encoded(np.where(ramp > 9, np.nan, ramp), "TIFF"))
    assert "8 or 16 bits" in refusal(encoded(RAMP.astype(np.int32) - 1, "TIFF"))


@pytest.mark.parametrize(
    "array",
    [
        np.full((20, 20), np.nan),
        np.full((20, 20), 1.5),
        np.full((20, 20), -0.5),
        np.zeros((20, 20), np.int32),
        np.zeros((20, 20), complex),
        np.array([["x"] * 20] * 20),
        np.zeros(400, np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((1, 20, 20, 3), np.uint8),
        np.zeros((0, 20), np.uint8),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray) -> None:
    assert refusal(array).startswith("array: ")


@pytest.mark.parametrize(("format", "dtype"), [("PNG", "u1"), ("PNG", "u2"), ("JPEG", "u1"), ("TIFF", "u2")])
def test_a_truncated_file_is_read_or_refused_and_nothing_else(format: str, dtype: str) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (48, 48)).astype(dtype)
    data = encoded(pixels, format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 150)):
        try:
            load(data[:length])
        except UnreadableImageError:
            refused += 1
    assert refused > 100


@given(st.sampled_from(["PNG", "JPEG", "TIFF"]), st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(format: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(RAMP, format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        radiograph = load(bytes(damaged))
    except UnreadableImageError:
        refusal(bytes(damaged))
    else:
        assert radiograph.pixels.ndim == 2


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    refusal(data)
