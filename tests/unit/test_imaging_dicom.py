"""DICOM files as they are read: greys as pydicom's own transforms give them, colours, encodings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from sgmsnet.imaging import Radiograph, is_dicom, load
from tests.needs import data_dir
from tests.unit.dicom_files import BIG, EXPLICIT, IMPLICIT, RAMP, compressed, made, outcome, written

# file name -> rows, columns, depth, spacing in mm
FILES = {
    "chest_cr_mono1_10bit_raw_nopreamble.dcm": (440, 440, 10, None),
    "chest_cr_mono1_15bit_jpeg2000.dcm": (1955, 1841, 15, None),
    "chest_cr_mono2_8bit_jpegbaseline.dcm": (1024, 1024, 8, (0.168, 0.168)),
    "nonchest_cr_mono1_10bit_jpeg2000lossless.dcm": (1760, 1760, 10, None),
    "nonchest_cr_mono1_10bit_jpeglossless_modalitylut.dcm": (1576, 1976, 10, (0.15, 0.15)),
    "nonhuman_dx_mono1_8bit_raw.dcm": (169, 211, 8, (1.2, 1.2012)),
}


def table(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def shown_by_pydicom(dataset: Dataset) -> np.ndarray:
    """Grey 0..255 by pydicom: modality, VOI, then inversion; windows are cut to their own range."""
    stored = dataset.pixel_array
    real = apply_modality_lut(stored, dataset)
    top = real.max() if dataset.get("ModalityLUTSequence") else 2**dataset.BitsStored - 1
    shown = apply_voi_lut(real, dataset).astype(float)
    if "WindowWidth" not in dataset and not dataset.get("VOILUTSequence"):
        shown = np.clip(shown, 0, top)
    share = shown / top
    return 255 * (1 - share if dataset.PhotometricInterpretation == "MONOCHROME1" else share)


# ---- the files of the data folder ----


@pytest.mark.parametrize("file", sorted(FILES))
def test_real_files_have_their_size_depth_and_spacing(file: str) -> None:
    rows, columns, depth, spacing = FILES[file]
    radiograph = load(data_dir() / "dicom" / file)
    assert radiograph.pixels.shape == (rows, columns)
    assert (radiograph.depth, radiograph.format) == (depth, "DICOM")
    assert radiograph.spacing_mm == (pytest.approx(spacing, abs=1e-3) if spacing else None)


@pytest.mark.parametrize("file", sorted(FILES))
def test_real_files_are_shown_as_pydicom_shows_them(file: str) -> None:
    path = data_dir() / "dicom" / file
    dataset = dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = IMPLICIT
    expected = shown_by_pydicom(dataset)
    radiograph = load(path)
    if "WindowWidth" in dataset or dataset.BitsStored == 8:
        assert np.abs(radiograph.display - expected).max() <= 1.5
    else:  # our window is robust where the file has none: the same order of greys, at another scale
        ours, theirs = radiograph.pixels.ravel().astype(float), expected.ravel()
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9999


def test_a_real_chest_is_dark_in_the_lungs_and_bright_in_the_middle() -> None:
    for file in (name for name in FILES if name.startswith("chest_")):
        shown = load(data_dir() / "dicom" / file).display
        h, w = shown.shape
        band = shown[int(0.3 * h) : int(0.5 * h)]
        middle = band[:, int(0.48 * w) : int(0.55 * w)].mean()
        assert middle > band[:, int(0.2 * w) : int(0.35 * w)].mean() + 20
        assert middle > band[:, int(0.65 * w) : int(0.8 * w)].mean() + 20


def test_real_files_truncated_anywhere_are_read_or_refused() -> None:
    for file in sorted(FILES):
        data = (data_dir() / "dicom" / file).read_bytes()
        for length in [*range(0, 4000, 97), len(data) // 3, len(data) // 2, len(data) - 9]:
            result = outcome(data[:length])
            assert isinstance(result, Radiograph) or result.startswith("chest.dcm: ")


# ---- grey scales ----


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (1, -1024), (2.5, 10), (-1, 4095), (0.001, 0)])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_and_rescales_are_those_of_pydicom(
    photometric: str, function: str | None, slope: float | None, intercept: float | None, signed: bool
) -> None:
    pixels = (RAMP.astype(np.int32) * 2 - (2000 if signed else 0)).astype(np.int16 if signed else np.uint16)
    low, high = (float(pixels.min()), float(pixels.max()))
    if slope is not None:
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    elements: dict[str, Any] = {"PhotometricInterpretation": photometric}
    elements |= {"WindowCenter": f"{(low + high) / 2:.6g}", "WindowWidth": f"{(high - low) * 0.6 + 1.5:.6g}"}
    if slope is not None:
        elements |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    if function:
        elements["VOILUTFunction"] = function
    dataset = made(pixels, **elements)
    radiograph = load(written(dataset))
    reference = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    bottom, top = window_range(dataset, signed)
    share = (reference - bottom) / (top - bottom)
    expected = 255 * (1 - share if photometric == "MONOCHROME1" else share)
    assert np.abs(radiograph.display - expected).max() <= 1.0


def window_range(dataset: Dataset, signed: bool) -> tuple[float, float]:
    """The range of pydicom's windowed values: that of the modality values."""
    bits = dataset.BitsStored
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], float)
    if "RescaleSlope" in dataset:
        ends = ends * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return float(ends[0]), float(ends[1])  # black first, also where a slope turns the scale over


def test_monochrome1_is_the_negative_of_monochrome2() -> None:
    window = {"WindowCenter": 700, "WindowWidth": 300}
    plain = load(written(made(**window)))
    turned = load(written(made(**window, PhotometricInterpretation="MONOCHROME1")))
    assert np.array_equal(turned.pixels, 4095 - plain.pixels)
    assert np.abs(255 - plain.display.astype(int) - turned.display).max() <= 1


# pydicom 3.0 is no reference for tables: of 8 bits, its VOI tables start anew every 256 entries.
def by_hand(value: int, first: int, entries: list[int]) -> int:
    """DICOM PS3.3 C.11.2.1.1: values before the first and after the last entry get these."""
    return entries[min(max(value - first, 0), len(entries) - 1)]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_modality_and_voi_tables_are_applied_one_after_the_other(photometric: str) -> None:
    modality = [4000 - 39 * step // 10 for step in range(1000)]
    voi = [step * 255 // 2999 for step in range(3000)]
    sequences = {"ModalityLUTSequence": [table(modality, 500, 16)], "VOILUTSequence": [table(voi, 700, 8)]}
    shown = load(written(made(**sequences, PhotometricInterpretation=photometric))).display
    reference = np.array([by_hand(by_hand(value, 500, modality), 700, voi) for value in RAMP.ravel().tolist()])
    assert np.array_equal(shown.ravel(), 255 - reference if photometric == "MONOCHROME1" else reference)
    assert {0, 255} <= set(reference.tolist())


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("count", "first"), [(4096, 0), (2999, 700), (1500, -3), (256, 5)])
def test_a_voi_table_of_8_bits_is_read_whatever_its_length_and_packing(
    syntax: str, packed: bool, count: int, first: int
) -> None:
    entries = [step * 255 // (count - 1) for step in range(count)]
    big = syntax == BIG
    words = np.array(entries, ">u2" if big else "<u2").tobytes()
    if packed:  # two entries a word, the first one in its low byte
        pairs = np.frombuffer(bytes(entries) + bytes(count % 2), "<u2")
        words = pairs.astype(">u2" if big else "<u2").tobytes()
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count, first, 8])
    item.add_new("LUTData", "OW", words)
    pixels = (RAMP.byteswap() if big else RAMP) if first >= 0 else RAMP.astype(np.int16)
    if big and first < 0:
        pixels = pixels.byteswap()
    shown = load(written(made(pixels, VOILUTSequence=[item]), syntax)).display
    assert shown.ravel().tolist() == [by_hand(value, first, entries) for value in RAMP.ravel().tolist()]


# entries' top, descriptor's bits -> white
WHITE = [
    (4095, 16, 4095),
    (4095, 12, 4095),
    (1000, 12, 4095),
    (4095, 8, 4095),
    (200, 8, 255),
    (200, 16, 255),
    (65535, 0, 65535),
]


@pytest.mark.parametrize(("top", "bits", "white"), WHITE)
def test_a_voi_table_is_shown_over_what_its_entries_reach(top: int, bits: int, white: int) -> None:
    entries = [step * top // 1999 for step in range(2000)]
    radiograph = load(written(made(VOILUTSequence=[table(entries, 0, bits)])))
    assert radiograph.window == (white / 2, white)
    assert np.abs(radiograph.display.ravel() - np.array(entries) * 255 / white).max() <= 0.5


def test_a_modality_table_of_12_bits_is_read() -> None:
    entries = [step * 4095 // 1999 for step in range(2000)]
    assert load(written(made(ModalityLUTSequence=[table(entries, 0, 12)]))).pixels.ravel().tolist() == entries


def test_a_table_shorter_than_it_says_is_damage() -> None:
    short = table([0, 1, 2, 3], 0, 8)
    short.LUTDescriptor = [100, 0, 8]
    assert outcome(written(made(VOILUTSequence=[short]))) == "chest.dcm: the DICOM file's grey scale is damaged."


def test_a_voi_table_of_16_bits_is_shown_over_its_whole_range() -> None:
    voi = table([int(v) for v in np.linspace(0, 65535, 2000) ** 1.0], 0, 16)
    radiograph = load(written(made(VOILUTSequence=[voi])))
    assert radiograph.window == (32767.5, 65535.0)
    assert np.abs(radiograph.display.ravel() - np.linspace(0, 255, 2000)).max() <= 1


def test_without_a_window_sixteen_bits_get_percentiles_and_eight_bits_none() -> None:
    centre, width = load(written(made())).window
    assert (centre - width / 2, centre + width / 2) == pytest.approx((10, 1990), abs=2)
    eight = load(written(made((RAMP % 256).astype(np.uint8))))
    assert (eight.window, eight.pixels.dtype) == ((127.5, 255.0), np.uint8)
    six = load(written(made((RAMP % 64).astype(np.uint8), bits=6)))
    assert (six.display.min(), six.display.max()) == (0, 255)


@pytest.mark.parametrize("width", ["0", "-5", "", None])
def test_a_senseless_window_is_passed_over(width: str | None) -> None:
    assert load(written(made(WindowCenter="500", WindowWidth=width))).window == load(written(made())).window


def test_of_several_windows_the_first_is_taken() -> None:
    many = load(written(made(WindowCenter=[700, 9], WindowWidth=[301, 1])))
    assert many.window == (699.5, 300.0)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_and_does_not_widen_the_window(photometric: str) -> None:
    pixels = RAMP + 1000
    pixels[:10] = 4095
    radiograph = load(written(made(pixels, PixelPaddingValue=4095, PhotometricInterpretation=photometric)))
    assert (radiograph.pixels[:10] == 0).all()
    assert radiograph.window[1] < 1500


@pytest.mark.parametrize("value", [0, 77, 4095])
def test_a_constant_image_is_read(value: int) -> None:
    for elements in ({}, {"WindowCenter": 1, "WindowWidth": 1}, {"RescaleSlope": 0, "RescaleIntercept": 3}):
        shown = load(written(made(np.full((20, 20), value, np.uint16), **elements))).display
        assert np.ptp(shown) == 0


# ---- colour ----


def test_rgb_and_ybr_become_their_luminance() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"), int)
    assert np.array_equal(load(written(made(colours))).pixels, expected)
    planar = made(colours, PlanarConfiguration=1, PixelData=colours.transpose(2, 0, 1).tobytes())
    assert np.array_equal(load(written(planar)).pixels, expected)
    ybr = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    found = load(written(made(ybr, PhotometricInterpretation="YBR_FULL"))).pixels
    assert np.abs(found - expected).max() <= 2


def test_palette_colours_become_their_luminance() -> None:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    ramp = np.arange(256, dtype=np.uint16)
    for colour, values in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp)):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{colour}PaletteColorLookupTableData"] = (values * 257).tobytes()
    pixels = (RAMP % 256).astype(np.uint8)
    shown = load(written(made(pixels, bits=8, **elements))).pixels / 257
    assert np.abs(shown - (0.413 * pixels + 0.587 * (255.0 - pixels))).max() < 1


# ---- how files are written ----


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_uncompressed_syntaxes_agree(syntax: str) -> None:
    pixels = RAMP.byteswap() if syntax == BIG else RAMP
    assert np.array_equal(load(written(made(pixels), syntax)).pixels, RAMP)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_file_without_preamble_or_suffix_is_read(tmp_path: Path, syntax: str) -> None:
    data = written(made(ModalityLUTSequence=[table(list(range(4096)), 0, 16)]), syntax, meta=False)
    path = tmp_path / "IM000001"
    path.write_bytes(data)
    assert is_dicom(path)
    assert np.array_equal(load(path).pixels, RAMP)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_compression_changes_nothing(syntax: str, dtype: type) -> None:
    pixels = (RAMP % 251).astype(dtype)
    assert np.array_equal(load(compressed(pixels, syntax)).pixels, pixels)


def test_only_dicom_looks_like_dicom() -> None:
    assert is_dicom(written(made()))
    for other in (b"", b"\x08", b"\x08\x00", b"\x89PNG\r\n\x1a\n", b"II*\x00" + bytes(200), b"hello" * 50):
        assert not is_dicom(other)
