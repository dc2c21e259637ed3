"""The little of safetensors and ONNX files that their own packages do not offer; numpy only.

Writing the same bytes every time, the places of tensors inside a file, and the metadata of a graph without the
onnx package. Not here: what the metadata means (checkpoint.py), and reading tensors (the safetensors package).
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_ALIGNMENT = 64
_DTYPES = {2: "F16", 4: "F32"}
_METADATA_PROPS = 14  # the field of onnx.ModelProto that holds them


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where one tensor lies in a safetensors file."""

    dtype: str
    """safetensors' name: F16, F32, ..."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""
    length: int
    """Bytes."""


def tensor_places(weights: Path) -> dict[str, TensorPlace]:
    """Places of the tensors of a valid safetensors file, by name."""
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        places[key] = TensorPlace(
            dtype=entry["dtype"], shape=tuple(entry["shape"]), offset=8 + size + begin, length=end - begin
        )
    return places


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write FP16 and FP32 tensors; the same content gives the same bytes.

    The package's own writer orders the metadata differently in every process.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    ordered = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
    offset = 0
    for key in ordered:
        tensor = tensors[key]
        extent = [offset, offset + tensor.nbytes]
        header[key] = {"dtype": _DTYPES[tensor.itemsize], "shape": list(tensor.shape), "data_offsets": extent}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in ordered:
            file.write(np.ascontiguousarray(tensors[key]).tobytes())


def graph_metadata(graph: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file; empty when the file has none, is not ONNX or cannot be read."""
    properties: dict[str, str] = {}
    try:
        with graph.open("rb") as file:
            for _, entry in _fields(file, graph.stat().st_size, wanted={_METADATA_PROPS}):
                pair = dict(_fields(io.BytesIO(entry), len(entry), wanted={1, 2}))  # StringStringEntryProto
                properties[pair[1].decode()] = pair.get(2, b"").decode()
    except (OSError, ValueError, EOFError, KeyError):
        return {}
    return properties


def _fields(file: BinaryIO, end: int, *, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message; the bytes of other fields than the wanted ones are skipped."""
    while file.tell() < end:
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            _varint(file)
            continue
        length = {1: 8, 5: 4}.get(wire) or (_varint(file) if wire == 2 else -1)
        if length < 0 or file.tell() + length > end:
            raise ValueError("not a protobuf message")
        if field in wanted:
            yield field, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not a protobuf number")
