"""DICOM files that are refused, cut short or damaged: one sentence for each, and nothing about the patient in any."""

from __future__ import annotations

import logging
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from sgmsnet import dicom
from sgmsnet.imaging import Radiograph, UnreadableImageError, load
from tests.unit.dicom_files import BORN, EXPLICIT, IMPLICIT, NAME, NUMBER, RAMP, compressed, made, outcome, written

DEFLATED = "1.2.840.10008.1.2.1.99"


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        load(data, name="chest.dcm")
    text = str(caught.value)
    assert text.startswith("chest.dcm: ")
    assert text.endswith(".")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in (*NAME.split("^"), NUMBER, BORN):
        assert secret not in text
    return text


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "PT", "SEG", "SR", "XYZ", NAME[:16]])
def test_what_is_no_projection_is_refused(modality: str) -> None:
    dataset = made()
    dataset.add_new("Modality", "LO", modality)
    assert "not a projection X-ray" in refusal(written(dataset))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_values_that_are_not_in_the_lowest_bits_are_refused(syntax: str) -> None:
    raw = syntax in (EXPLICIT, IMPLICIT)
    shifted = (RAMP << 4).astype(np.uint16)  # 12 bits from the highest one down
    left = made(shifted) if raw else dcmread(BytesIO(compressed(shifted, syntax, bits=16)))
    left.BitsStored, left.HighBit = 12, 15
    assert "not stored in the lowest bits" in refusal(written(left, syntax))
    dataset = made() if raw else dcmread(BytesIO(compressed(RAMP, syntax)))
    del dataset.HighBit
    assert np.array_equal(load(written(dataset, syntax)).pixels, RAMP)


def test_several_frames_are_refused_and_one_is_read() -> None:
    assert "more than one frame" in refusal(written(made(NumberOfFrames=2, PixelData=RAMP.tobytes() * 2)))
    assert np.array_equal(load(written(made(NumberOfFrames=1))).pixels, RAMP)


def test_a_file_without_pixels_is_refused() -> None:
    dataset = made()
    del dataset.PixelData
    assert "no pixel data" in refusal(written(dataset))
    assert "no pixel data" in refusal(written(made(PixelData=b"")))


@pytest.mark.parametrize(("rows", "columns"), [(65535, 65535), (8000, 8000), (0, 40), (15, 40), (40, 10_001)])
def test_declared_sizes_outside_the_limits_are_refused_undecoded(rows: int, columns: int) -> None:
    assert "pixels, but" in refusal(written(made(Rows=rows, Columns=columns)))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_is_refused_undecoded(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dcmread(BytesIO(compressed(np.zeros((512, 512), np.uint8), syntax)))
    data.Rows = data.Columns = 64
    monkeypatch.setattr(dicom, "_plugin", lambda *_: pytest.fail("it was decoded"))
    assert "does not have the size" in refusal(written(data, syntax))


def test_a_jpeg_of_another_size_is_refused() -> None:
    buffer = BytesIO()
    Image.new("L", (300, 200)).save(buffer, "JPEG")
    dataset = made(np.zeros((64, 64), np.uint8), PixelData=encapsulate([buffer.getvalue()]))
    dataset["PixelData"].is_undefined_length = True
    assert "does not have the size" in refusal(written(dataset, JPEGBaseline8Bit))


def test_a_deflated_file_is_refused_and_not_inflated() -> None:
    bomb = made(np.zeros((7000, 7000), np.uint8))
    assert "deflated" in refusal(written(bomb, DEFLATED))


def test_an_encoding_without_a_decoder_is_named_if_the_standard_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = made(PixelData=encapsulate([b"\0" * 100]))
    dataset["PixelData"].is_undefined_length = True
    film = written(dataset, "1.2.840.10008.1.2.4.102")
    assert "MPEG-4" in refusal(film)
    assert "an unknown encoding" in refusal(film.replace(b"1.2.4.102", b"1.2.4.999"))
    data = compressed(RAMP, JPEG2000Lossless)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    assert "no decoder for JPEG 2000" in refusal(data)


def test_wide_and_floating_point_pixels_are_refused() -> None:
    assert "at most 16 bits" in refusal(written(made(RAMP.astype(np.uint32))))
    dataset = made()
    del dataset.PixelData
    dataset.FloatPixelData = RAMP.astype(np.float32).tobytes()
    assert "floating-point" in refusal(written(dataset))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_truncated_file_is_read_or_refused_and_names_nobody(
    syntax: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    noise = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    raw = syntax in (EXPLICIT, IMPLICIT)
    data = written(made(noise), syntax) if raw else compressed(noise, syntax)
    for length in range(0, len(data), 23):
        if isinstance(outcome(data[:length]), str):
            refusal(data[:length])
    output = capfd.readouterr()
    for secret in (*NAME.split("^"), NUMBER, BORN):
        assert secret not in caplog.text + output.out + output.err


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_names_nobody(data: st.DataObject) -> None:
    window = {"WindowCenter": 700, "WindowWidth": 300, "RescaleSlope": 1, "RescaleIntercept": 0}
    damaged = bytearray(written(made(RAMP[:20, :20].copy(), **window)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(132, 1100))] = data.draw(st.integers(0, 255))
    result = str(outcome(bytes(damaged)))
    assert not any(secret in result for secret in (*NAME.split("^"), NUMBER, BORN))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_damaged_codestream_is_read_or_refused(syntax: str) -> None:
    """pylibjpeg's RLE decoder panics here, with an exception that is no Exception."""
    random = np.random.default_rng(5)
    data = compressed(random.integers(0, 4096, (40, 50)).astype(np.uint16), syntax)
    for _ in range(300):
        damaged = bytearray(data)
        for position in random.integers(len(data) - 3000, len(data), 4):
            damaged[position] = random.integers(256)
        result = outcome(bytes(damaged))
        assert isinstance(result, Radiograph) or result.startswith("chest.dcm: ")


def test_a_radiograph_holds_nothing_about_the_patient() -> None:
    radiograph = load(written(made(WindowCenter=700, WindowWidth=300)), name="x")
    for secret in (*NAME.split("^"), NUMBER, BORN):
        assert secret not in repr(vars(radiograph))
