"""What holds for PNG, JPEG, TIFF and arrays on their way in, and for planes on their way back."""

from __future__ import annotations

import itertools
import math
import struct
import threading
import time
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sgmsnet import imaging
from sgmsnet.imaging import Radiograph, UnreadableImageError, load, prepare
from sgmsnet.radiograph import quiet
from tests.needs import ROOT

sides = st.integers(16, 400)
settings.register_profile("imaging", max_examples=60, deadline=None)
settings.load_profile("imaging")

RAMP = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


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


# ---- the way in ----


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_files_bytes_and_arrays_agree(tmp_path: Path, format: str, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (40, 60)).astype(dtype)
    path = tmp_path / "chest.jpg"  # the suffix lies, and nobody minds
    path.write_bytes(encoded(pixels, format))
    for radiograph in (load(path), load(str(path)), load(path.read_bytes()), load(pixels)):
        assert np.array_equal(radiograph.pixels, pixels)
        assert radiograph.pixels.dtype == dtype
        assert radiograph.window == load(pixels).window
        assert radiograph.spacing_mm is None
    assert load(path).format == format
    assert load(pixels).format == "array"


def test_jpeg_keeps_what_pillow_decodes() -> None:
    data = encoded(RAMP, "JPEG", quality=90)
    assert np.array_equal(load(data).pixels, np.asarray(Image.open(BytesIO(data))))
    assert (load(data).depth, load(data).window) == (8, (127.5, 255.0))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_the_same_grey(mode: str) -> None:
    binary = np.where(RAMP > 50, 255, 0).astype(np.uint8)
    image = Image.fromarray(binary).convert("1", dither=Image.Dither.NONE) if mode == "1" else None
    image = image or Image.fromarray(binary).convert(mode)
    assert np.array_equal(load(encoded(image)).pixels, binary)


@pytest.mark.parametrize(
    ("format", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "YCbCr"), ("TIFF", "RGB"), ("TIFF", "CMYK")]
)
def test_colours_become_their_luminance(format: str, mode: str) -> None:
    image = Image.fromarray(np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)).convert(mode)
    data = encoded(image, format)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB").convert("L"), int)
    assert np.abs(load(data).pixels - expected).max() <= 2


def test_colour_arrays_are_weighted_alike_in_8_and_16_bits() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    wide = load(colours.astype(np.uint16) * 257).pixels
    assert np.abs(wide / 257 - load(colours).pixels).max() < 1.0
    assert np.array_equal(load(colours).pixels, np.asarray(Image.fromarray(colours).convert("L")))


def test_transparent_pixels_are_background() -> None:
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 255))
    image.paste((255, 255, 255, 0), (0, 0, 10, 20))
    pixels = load(encoded(image)).pixels
    assert (pixels[:, :10] == 0).all()
    assert (pixels[:, 10:] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_white_as_zero_is_turned_over(dtype: type) -> None:
    pixels = (RAMP.astype(np.uint32) * (np.iinfo(dtype).max // 255)).astype(dtype)
    plain = encoded(pixels, "TIFF", compression="raw")
    white = encoded(pixels, "TIFF", compression="raw", tiffinfo={262: 0})
    found = load(white).pixels
    stored = np.iinfo(dtype).max - pixels if dtype == np.uint16 else pixels  # Pillow writes 8 bits turned over
    assert np.array_equal(found, stored)
    assert np.array_equal(load(plain).pixels, pixels)


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


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions_are_lossless(compression: str) -> None:
    assert np.array_equal(load(encoded(RAMP, "TIFF", compression=compression)).pixels, RAMP)


@pytest.mark.parametrize(("orientation", "format"), list(itertools.product(range(1, 9), ["PNG", "JPEG", "TIFF"])))
def test_exif_orientation_is_undone(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(RAMP[:, ::2], format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    assert np.array_equal(load(data).pixels, expected)


def test_bool_and_float_arrays_are_shown_as_they_are() -> None:
    mask = RAMP > 50
    assert np.array_equal(load(mask).display, np.where(mask, 255, 0))
    assert np.array_equal(load(RAMP / 255).display, RAMP)
    assert np.array_equal(load((RAMP / 255).astype(np.float32)).display, RAMP)


def test_an_array_is_copied_and_the_radiograph_cannot_be_written() -> None:
    mine = RAMP.copy()
    radiograph = load(mine)
    mine[:] = 0
    assert np.array_equal(radiograph.pixels, RAMP)
    with pytest.raises(ValueError, match="read-only"):
        radiograph.pixels[0, 0] = 1


@pytest.mark.parametrize("value", [0, 7, 255, 256, 65535])
def test_a_constant_image_is_shown_black_or_as_it_is(value: int) -> None:
    radiograph = load(np.full((20, 30), value, np.uint16))
    assert (radiograph.display == 0).all()
    if value < 256:
        assert (load(np.full((20, 30), value, np.uint8)).display == value).all()


def test_depth_counts_the_bits_in_use() -> None:
    for bits in range(8, 17):
        assert load(np.full((16, 16), 2**bits - 1, np.uint16)).depth == bits


# ---- the window ----


@given(st.floats(-1000, 66_000), st.floats(1e-3, 70_000), st.sampled_from([np.uint8, np.uint16]))
def test_the_window_is_monotone_and_reaches_its_ends(centre: float, width: float, dtype: type) -> None:
    top = np.iinfo(dtype).max
    pixels = np.linspace(0, top, 1024).astype(dtype).reshape(32, 32)
    shown = Radiograph(pixels, 16, (centre, width), None, "array").display
    assert shown.dtype == np.uint8
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()
    exact = np.clip((pixels.astype(float) - centre) / width + 0.5, 0, 1) * 255
    assert np.abs(shown - exact).max() <= 0.5 + 1e-6


def test_sixteen_bits_get_a_window_that_outliers_do_not_move() -> None:
    pixels = np.random.default_rng(2).integers(1000, 3000, (200, 200)).astype(np.uint16)
    pixels.flat[:50], pixels.flat[50:100] = 0, 65535
    centre, width = load(pixels).window
    low, high = np.percentile(pixels, [0.5, 99.5])
    assert abs(centre - width / 2 - low) <= 1
    assert abs(centre + width / 2 - high) <= 1


@pytest.mark.parametrize("window", [(1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_a_window_that_shows_nothing_cannot_be_made(window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="window"):
        Radiograph(RAMP.copy(), 8, window, None, "array")


# ---- into the model's input and back ----


@given(sides, sides, st.sampled_from([(224, 224), (256, 160), (96, 352)]))
def test_prepare_gives_the_models_input_for_any_aspect(h: int, w: int, model: tuple[int, int]) -> None:
    planes, geometry = prepare(load(np.full((h, w), 200, np.uint8)), height=model[0], width=model[1])
    assert (planes.shape, planes.dtype) == ((1, *model), np.uint8)
    inside = np.zeros(model, bool)
    rows = slice(geometry.top, geometry.top + geometry.height)
    inside[rows, geometry.left : geometry.left + geometry.width] = True
    assert (planes[0][inside] == 200).all()
    assert (planes[0][~inside] == 0).all()
    assert geometry.height == model[0] or geometry.width == model[1]
    assert abs(model[0] - geometry.height - 2 * geometry.top) <= 1
    assert abs(model[1] - geometry.width - 2 * geometry.left) <= 1


def test_prepare_leaves_an_image_of_the_models_size_untouched() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (224, 224)).astype(np.uint8)
    assert np.array_equal(prepare(load(pixels), height=224, width=224)[0][0], pixels)


def test_prepare_averages_what_it_makes_smaller() -> None:
    checks = (np.indices((448, 448)).sum(0) % 2 * 255).astype(np.uint8)
    inner = prepare(load(checks), height=224, width=224)[0][0, 4:-4, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() <= 2


@given(sides, sides, st.sampled_from([(7, 7), (28, 28), (56, 40), (224, 224)]))
def test_a_restored_plane_has_the_size_of_the_image_for_any_aspect(h: int, w: int, cells: tuple[int, int]) -> None:
    _, geometry = prepare(load(np.zeros((h, w), np.uint8)), height=224, width=224)
    restored = geometry.restore(np.full(cells, 0.25, np.float32))
    assert (restored.shape, restored.dtype) == ((h, w), np.float32)
    assert np.allclose(restored, 0.25)
    assert geometry.restore(np.zeros(cells), height=50, width=70).shape == (50, 70)


@given(sides, st.floats(0.5, 2.0), st.data())
def test_a_rectangle_survives_the_way_there_and_back(h: int, aspect: float, data: st.DataObject) -> None:
    w = min(max(round(h * aspect), 16), 400)
    y0, x0 = data.draw(st.integers(0, h // 4)), data.draw(st.integers(0, w // 4))
    y1, x1 = data.draw(st.integers(3 * h // 4, h)), data.draw(st.integers(3 * w // 4, w))
    truth = np.zeros((h, w), bool)
    truth[y0:y1, x0:x1] = True
    planes, geometry = prepare(load(truth), height=224, width=224)
    mask = geometry.restore(planes[0].astype(np.float32)) > 127.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_the_padding_never_reaches_the_image() -> None:
    for h, w in ((100, 200), (333, 77), (64, 61)):
        planes, geometry = prepare(load(np.full((h, w), 255, np.uint8)), height=224, width=224)
        assert (geometry.restore(planes[0]) == 255).all()


@pytest.mark.parametrize("cells", [7, 14, 56, 224])
def test_a_ramp_is_restored_to_where_it_was(cells: int) -> None:
    """A ramp sampled at cell centres gives the ramp at pixel centres, also where padding cuts through cells."""
    _, geometry = prepare(load(np.zeros((100, 200), np.uint8)), height=224, width=224)
    centres = (np.arange(cells) + 0.5) / cells
    restored = geometry.restore(np.repeat(centres[:, None], cells, 1))
    expected = (geometry.top + (np.arange(100) + 0.5) / 100 * geometry.height) / 224
    inner = slice(100 // cells + 8, -(100 // cells + 8))
    assert np.abs(restored[inner, 100] - expected[inner]).max() < 0.002


@given(sides, sides, st.sampled_from([1, 7, 56, 224]), st.floats(-1.2, 1.2), st.integers(0, 2**32 - 1))
def test_what_lies_above_a_cut_is_what_restoring_all_of_it_would_show(
    h: int, w: int, cells: int, cut: float, seed: int
) -> None:
    _, geometry = prepare(load(np.zeros((h, w), np.uint8)), height=224, width=224)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(-1, 1, (min(cells, 7), min(cells, 7))).astype(np.float32))
    plane = np.asarray(coarse.resize((cells, cells), Image.Resampling.BILINEAR))
    restored = geometry.restore(plane)
    differs = geometry.restore_above(plane, cut) != (restored > cut)
    assert np.abs(restored[differs] - cut).max(initial=0) < 1e-5  # of values at the cut, rounding decides


def test_only_planes_are_restored() -> None:
    _, geometry = prepare(load(RAMP), height=224, width=224)
    for wrong in (np.zeros(3), np.zeros((1, 7, 7)), np.zeros((0, 7))):
        with pytest.raises(ValueError, match="plane"):
            geometry.restore(wrong)
        with pytest.raises(ValueError, match="plane"):
            geometry.restore_above(wrong, 0.0)


# ---- what is refused ----


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


# ---- in company ----


def test_threads_that_decode_together_leave_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    barrier = threading.Barrier(8)

    def work(seconds: float) -> None:
        barrier.wait()
        with quiet():
            time.sleep(seconds)

    threads = [threading.Thread(target=work, args=(i * 0.005,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_suffixes_are_lower_case_and_cover_the_formats() -> None:
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"} == imaging.SUFFIXES


def test_the_examples_are_read() -> None:
    files = [path for path in (ROOT / "examples").iterdir() if path.suffix in imaging.SUFFIXES]
    assert len(files) == 12
    for path in files:
        radiograph = load(path)
        assert max(radiograph.pixels.shape) <= 1024
        assert prepare(radiograph, height=224, width=224)[0].std() > 10
    folder = ROOT / "examples"
    assert np.array_equal(load(folder / "covid_adult_1.dcm").pixels, load(folder / "covid_adult_1.jpg").pixels)
