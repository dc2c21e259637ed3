"""From the bytes of a DICOM file to a Radiograph; reads one projection X-ray, and nothing about the patient.

Package-private: call sgmsnet.imaging.load. Only the elements in _WANTED are ever parsed, so names, dates and
numbers of patients cannot reach a Radiograph, a message or a log.
"""

from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder
from pydicom.uid import UID, UID_dictionary

from sgmsnet.dicom_header import not_frontal, number, spacing, turned, usual_sides
from sgmsnet.radiograph import (
    DECODING_ERRORS,
    Radiograph,
    UnreadableImageError,
    check_size,
    from_plane,
    look_up,
    luminance,
    robust_window,
    room_for,
    row_chunks,
)

# fmt: off
_WANTED = [
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "LUTDescriptor", "LUTData", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData", "PixelSpacing",
    "PixelSpacingCalibrationType", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor",
    "PatientOrientation", "ViewPosition", "BodyPartExamined", "FloatPixelData", "DoubleFloatPixelData", "PixelData",
]
# fmt: on

_PROJECTIONS = {"", "CR", "DX", "DR", "HC", "IO", "MG", "OT", "PX", "RF", "RG", "SC", "XA", "XR"}
_OTHERS = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "US": "ultrasound",
    "SEG": "a segmentation",
    "SR": "a report",
}
_ERRORS = (*DECODING_ERRORS, BytesLengthException, InvalidDicomError)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_IMPLICIT, _EXPLICIT = UID("1.2.840.10008.1.2"), UID("1.2.840.10008.1.2.1")
# pydicom's own first: it decodes RLE only, where pylibjpeg panics over damaged files, past any except clause.
_PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_TOP = 65535


def read(data: bytes, name: str) -> Radiograph:
    """Read one frame of a projection X-ray; raises UnreadableImageError, which calls the file `name`."""
    dataset = _parse(data, name)
    _check_kind(dataset, name)
    height, width = int(number(dataset, "Rows") or 0), int(number(dataset, "Columns") or 0)
    check_size(height, width, name)
    with room_for(height, width):
        stored = _decode(dataset, name)
        try:
            if stored.ndim == 3:
                radiograph = from_plane(luminance(stored), "DICOM")
            else:
                radiograph = _from_monochrome(stored, dataset)
        except _ERRORS:
            raise UnreadableImageError(f"{name}: the DICOM file's grey scale is damaged.") from None
    spacing_mm, spacing_at = spacing(dataset)
    against = not_frontal(dataset)
    return replace(
        radiograph,
        spacing_mm=spacing_mm,
        spacing_at=spacing_at,
        usual_sides=usual_sides(dataset),
        frontal=against is None,
        header_says=against or ("the image is turned or upside-down" if turned(dataset) else None),
    )


def _parse(data: bytes, name: str) -> FileDataset:
    if _DEFLATED in data:  # a small file could inflate to any size
        raise UnreadableImageError(f"{name}: DICOM files that are deflated as a whole are not read.")
    try:
        dataset = dcmread(BytesIO(data), force=True, specific_tags=list(_WANTED))
        if dataset.file_meta.get("TransferSyntaxUID") is None:
            implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = _IMPLICIT if implicit else _EXPLICIT
        for keyword in _WANTED:  # values are parsed on first use: let the damaged ones fail here
            dataset.get(keyword)
    except _ERRORS:
        raise UnreadableImageError(f"{name}: the DICOM file is damaged or ends early.") from None
    return dataset


def _check_kind(dataset: FileDataset, name: str) -> None:
    """Raise UnreadableImageError for what is not one frame of a projection X-ray with integer pixels."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in _PROJECTIONS:
        what = _OTHERS.get(modality, "another kind of data")
        raise UnreadableImageError(f"{name}: the DICOM file holds {what}, not a projection X-ray.")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnreadableImageError(f"{name}: DICOM files with floating-point pixels are not read.")
    if not dataset.get("PixelData"):
        raise UnreadableImageError(f"{name}: the DICOM file holds no pixel data.")
    if (number(dataset, "NumberOfFrames") or 1) > 1:
        raise UnreadableImageError(f"{name}: the DICOM file holds more than one frame.")
    if dataset.get("BitsAllocated") not in (1, 8, 16):
        raise UnreadableImageError(f"{name}: only DICOM pixels of at most 16 bits are read.")
    high, bits = number(dataset, "HighBit"), number(dataset, "BitsStored")
    # pydicom takes the lowest bits, whatever HighBit says. A lossless coder leaves the bits where they are.
    if high is not None and bits is not None and high != bits - 1:
        raise UnreadableImageError(f"{name}: DICOM pixels that are not stored in the lowest bits are not read.")


def _decode(dataset: FileDataset, name: str) -> np.ndarray:
    """Stored values (H, W), or red, green and blue (H, W, 3)."""
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    # Of the file's own text, only what the standard knows is repeated in a message.
    label = syntax.name if syntax in UID_dictionary else "an unknown encoding"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImageError(f"{name}: DICOM pixels stored as {label} are not read.") from None
    if not decoder.is_available:
        raise UnreadableImageError(f"{name}: no decoder for {label} is installed.")
    try:
        if syntax.is_encapsulated:
            _check_codestream(dataset, name)
        pixels, _ = decoder.as_array(dataset, decoding_plugin=_plugin(decoder, dataset))
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
    except UnreadableImageError:
        raise
    except _ERRORS:
        raise UnreadableImageError(f"{name}: the DICOM pixel data is damaged or ends early.") from None
    if pixels.shape not in {(dataset.Rows, dataset.Columns), (dataset.Rows, dataset.Columns, 3)}:
        raise UnreadableImageError(f"{name}: the DICOM pixel data does not have the size its header states.")
    return np.asarray(pixels)


def _plugin(decoder: Any, dataset: FileDataset) -> str:
    """The first of the installed decoders by our order, or none where pydicom needs none."""
    installed = decoder.available_plugins
    if dataset.file_meta.TransferSyntaxUID == _JPEG_EXTENDED and "gdcm" in installed:
        return "gdcm"  # Pillow reads no 12-bit JPEG
    return next((plugin for plugin in _PLUGINS if plugin in installed), "")


def _check_codestream(dataset: FileDataset, name: str) -> None:
    """A compressed image states its size once more; a false one could make the decoder fill the memory."""
    found = _codestream_shape(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if found and found != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise UnreadableImageError(f"{name}: the DICOM pixel data does not have the size its header states.")


def _codestream_shape(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) that a JPEG, JPEG-LS or JPEG 2000 stream states; None for other streams."""
    start = frame.find(b"\xff\x4f\xff\x51")  # JPEG 2000: start of codestream, SIZ; bare or inside a JP2 file
    if start >= 0 and (start == 0 or frame[4:8] == b"jP  "):
        x1, y1, x0, y0 = (int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
        return y1 - y0, x1 - x0, int.from_bytes(frame[start + 40 : start + 42], "big")
    position = 2
    while frame[:2] == b"\xff\xd8" and position + 9 < len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = (int.from_bytes(frame[position + at : position + at + 2], "big") for at in (5, 7))
            return rows, columns, frame[position + 9]
        else:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None


def _from_monochrome(stored: np.ndarray, dataset: FileDataset) -> Radiograph:
    """Modality and VOI transform, then MONOCHROME1 turned over, as one table over all stored values."""
    bits = min(max(int(dataset.BitsStored), 1), 16)
    low = -(2 ** (bits - 1)) if stored.dtype.kind == "i" else 0
    values = np.arange(low, low + 2**bits, dtype=np.int32)
    index = np.empty(stored.shape, np.uint16)
    for rows in row_chunks(stored):
        index[rows] = np.clip(stored[rows], values[0], values[-1]).astype(np.int32) - low
    table, window = _grey_table(values, dataset)
    peak = int(table.max())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = peak - table
        window = (peak - window[0], window[1]) if window else None
    padding = _padding(values, dataset)
    table[padding] = 0  # shutters and borders are background, whichever way the grey scale runs
    pixels = look_up(table.astype(np.uint8 if peak < 256 else np.uint16), index)
    if window is None and peak < 256:
        window = (peak / 2, float(max(peak, 1)))
    elif window is None:
        inside = pixels[~padding[index]] if padding.any() else pixels
        window = robust_window(inside if inside.size else pixels)
    shown = from_plane(pixels, "DICOM", window=window)
    return replace(shown, depth=max(8, peak.bit_length()))  # of what the file can hold, not of what this image reaches


def _grey_table(values: np.ndarray, dataset: FileDataset) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Grey 0..65535 (int64) of every stored value, before any inversion, and the file's own window."""
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in dataset and number(dataset, keyword) is None:
            del dataset[keyword]
    if dataset.get("ModalityLUTSequence"):
        real, _ = _through_table(values, dataset, "ModalityLUTSequence")
    else:
        real = np.asarray(apply_modality_lut(values, dataset), np.float64)
    window = _window(dataset)
    if dataset.get("VOILUTSequence"):
        real, white = _through_table(np.rint(real).astype(np.int64), dataset, "VOILUTSequence")
        window = (white / 2, float(white))
    elif window and str(dataset.get("VOILUTFunction") or "").strip().upper() == "SIGMOID":
        real = _TOP / (1 + np.exp(np.clip(-4 * (real - window[0]) / window[1], -700, 700)))
        window = (_TOP / 2, float(_TOP))
    offset, scale = _fit(real)
    table = np.rint((real - offset) * scale).astype(np.int64)
    return table, ((window[0] - offset) * scale, window[1] * scale) if window else None


def _through_table(values: np.ndarray, dataset: FileDataset, keyword: str) -> tuple[np.ndarray, int]:
    """Whole numbers through the first table of a sequence (DICOM PS3.3 C.11.1.1): float64, and the table's white.

    Not by pydicom, which counts places in the type of the entries: its tables of 8 bits start anew every 256 values.
    """
    item = dataset[keyword].value[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count & 0xFFFF or 2**16  # which is written as 0
    entries = _entries(item.LUTData, count, little=dataset.file_meta.TransferSyntaxUID.is_little_endian)
    needed = max(int(entries.max()).bit_length(), 8)
    # 16 tells nothing: for most X-rays a header may say only 8 or 16, whatever the entries reach.
    white = 2 ** (bits if needed <= bits < 16 else needed) - 1
    return entries[np.clip(values.astype(np.int64) - first, 0, count - 1)].astype(np.float64), white


def _entries(data: Any, count: int, *, little: bool) -> np.ndarray:
    """LUTData -> the table's entries, unsigned (count,); ValueError where there are fewer."""
    words = np.frombuffer(data, "<u2" if little else ">u2") if isinstance(data, bytes) else data
    words = np.atleast_1d(words).astype("<u2")
    if len(words) == (count + 1) // 2 and count > 1:  # entries of 8 bits, two a word, the first one in the low byte
        words = words.view(np.uint8)
    if len(words) < count:
        raise ValueError("The table has fewer entries than its descriptor says.")
    return words[:count]


def _fit(real: np.ndarray) -> tuple[float, float]:
    """Offset and scale that bring real values to 0..65535; whole numbers that fit keep their scale."""
    low, high = float(real.min()), float(real.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("The modality transform yields numbers that are not finite.")
    if high - low > _TOP or (real != np.rint(real)).any():
        return low, _TOP / (high - low)
    return (0.0 if low >= 0 and high <= _TOP else low), 1.0


def _window(dataset: FileDataset) -> tuple[float, float] | None:
    """The first window of the file as (centre, width), black to white (DICOM PS3.3 C.11.2.1.2)."""
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    if str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper() != "LINEAR":
        return centre, width
    return centre - 0.5, max(width - 1, 1e-3)  # LINEAR counts from the centres of the first and last value


def _padding(values: np.ndarray, dataset: FileDataset) -> np.ndarray:
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    last = number(dataset, "PixelPaddingRangeLimit")
    last = first if last is None else last
    return (values >= min(first, last)) & (values <= max(first, last))
