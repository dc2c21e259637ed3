"""What holds for PNG, JPEG, TIFF and arrays on their way in, and for the window that they are shown in."""

from __future__ import annotations

import itertools
import math
import threading
import time
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sgmsnet import imaging
from sgmsnet.imaging import Radiograph, load, prepare
from sgmsnet.radiograph import quiet
from tests.needs import ROOT
from tests.unit.image_files import RAMP, encoded

# ---- the way in ----


def test_arrays_of_the_other_byte_order_are_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 60)).astype(">u2")
    assert np.array_equal(load(pixels).pixels, pixels)


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
