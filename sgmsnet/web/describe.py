"""The OpenAPI description of the REST interface, as far as the code's types do not say it. No behaviour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parents[2] / "docs" / "prediction.schema.json"
_PART = "#/components/schemas/"


def _json(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": _PART + name}}}}


def _errors(**sentences: str) -> dict[str, Any]:
    return {status.removeprefix("_"): _json(sentence, "Error") for status, sentence in sentences.items()}


_ALWAYS = {
    "_401": "The page has a password, and this is not it",
    "_429": "Too many requests or wrong passwords; Retry-After says how many seconds to wait",
}
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

SEGMENT: dict[str, Any] = {
    "description": "Options may stand in the form or in the query; threshold.CLASS takes any class of the model.",
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in _OPTIONS.items()
    ],
    "responses": {
        "200": _json("The result", "Result"),
        **_errors(
            _400="The form or an option makes no sense",
            _413="The file is larger than 64 MB",
            _415="Not multipart, or not a PNG, JPEG, TIFF or DICOM file",
            _422="The image is damaged or outside the limits",
            _500="The engine failed",
            _503="Too many requests at once, or the server is about to stop",
            **_ALWAYS,
        ),
    },
}
MODELS: dict[str, Any] = {"responses": {"200": _json("The model and the engines", "Models"), **_errors(**_ALWAYS)}}

_TEXT, _NUMBERS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "number"}}
_MASKS = {
    "description": "By class, at the image's own size; absent with masks=none.",
    "type": "object",
    "additionalProperties": {"oneOf": [{"$ref": _PART + "MaskPng"}, {"$ref": _PART + "MaskRuns"}]},
}
_PARTS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
    "MaskPng": {
        "description": "With masks=png: an 8-bit grey PNG, 0 or 255.",
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
    },
    "MaskRuns": {
        "description": "With masks=rle: COCO's uncompressed run lengths, down the columns, beginning with 0.",
        "type": "object",
        "required": ["size", "counts"],
        "properties": {
            "size": {"description": "Rows and columns.", "type": "array", "items": {"type": "integer", "minimum": 1}},
            "counts": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
    },
    "Models": {
        "type": "object",
        "required": ["models"],
        "properties": {"models": {"type": "array", "items": {"$ref": _PART + "Model"}}},
    },
    "Model": {
        "type": "object",
        "required": ["name", "sha256", "classes", "thresholds", "input", "engine", "engines"],
        "properties": {
            "name": _TEXT,
            "sha256": _TEXT,
            "classes": {"type": "array", "items": _TEXT},
            "thresholds": _NUMBERS,
            "input": {"type": "object", "properties": {"height": {"type": "integer"}, "width": {"type": "integer"}}},
            "engine": {
                "type": "object",
                "properties": {
                    "name": _TEXT,
                    "precision": _TEXT,
                    "device": _TEXT,
                    "notes": {"description": "What to know of how it runs here.", "type": "array", "items": _TEXT},
                },
            },
            "engines": {"type": "array", "items": {"$ref": _PART + "Engine"}},
        },
    },
    "Engine": {
        "type": "object",
        "required": ["name", "available", "reason", "version"],
        "properties": {
            "name": _TEXT,
            "available": {"type": "boolean"},
            "reason": {"description": "Why it does not run on this machine.", **_TEXT},
            "version": {"type": ["string", "null"]},
        },
    },
}


def complete(document: dict[str, Any], *, locked: bool) -> dict[str, Any]:
    """FastAPI's document with the schemas that its routes refer to, and with the login where the page has one."""
    parts = {**_PARTS, **_record()}
    components = {"schemas": parts, "securitySchemes": {"password": {"type": "http", "scheme": "basic"}}}
    described = {**document, "components": components}
    return {**described, "security": [{"password": []}]} if locked else described


def _record() -> dict[str, Any]:
    """docs/prediction.schema.json as parts of an OpenAPI document, with masks added to what it allows."""
    text = RECORD.read_text(encoding="utf-8").replace('"#/$defs/', f'"{_PART}')
    record = json.loads(text)
    record.pop("$schema")
    of_files = ("path", "segmentation_error")  # which predict alone writes
    properties = {name: schema for name, schema in record["properties"].items() if name not in of_files}
    return {**record.pop("$defs"), "Result": {**record, "properties": {**properties, "masks": _MASKS}}}
