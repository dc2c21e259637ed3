"""The OpenAPI description of the REST interface, as far as the code's types do not say it. No behaviour."""

from __future__ import annotations

from typing import Any

from sgmsnet.prediction import RECORD_KEYS


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    sentence = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return _json(description, sentence)


_OPTIONS: dict[str, dict[str, Any]] = {
    "engine": {"type": "string", "description": "A name from /v1/models, or auto. Default: the server's own."},
    "masks": {
        "type": "string",
        "enum": ["png", "rle", "none"],
        "default": "png",
        "description": "png: base64 of an 8-bit PNG, 0 or 255. rle: COCO's uncompressed run lengths.",
    },
    "threshold.lungs": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "threshold.infection": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "PNG, JPEG, TIFF or DICOM, at most 64 MB."},
        **_OPTIONS,
    },
}
_RESULT = {
    "type": "object",
    "description": "The result schema (docs/prediction.schema.json), and the masks by class at the image's own size.",
    "required": list(RECORD_KEYS),
    "properties": {**{key: {} for key in RECORD_KEYS}, "masks": {"type": "object"}},
}

SEGMENT: dict[str, Any] = {
    "description": "Options may stand in the form or in the query; threshold.CLASS takes any class of the model.",
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in _OPTIONS.items()
    ],
    "responses": {
        "200": _json("The result", _RESULT),
        "400": _error("The form or an option makes no sense"),
        "413": _error("The file is larger than 64 MB"),
        "415": _error("Not multipart, or not a PNG, JPEG, TIFF or DICOM file"),
        "422": _error("The image is damaged or outside the limits"),
        "500": _error("The engine failed"),
        "503": _error("Too many requests at once"),
    },
}
MODELS: dict[str, Any] = {
    "responses": {"200": _json("Models", {"type": "object", "properties": {"models": {"type": "array", "items": {}}}})}
}
