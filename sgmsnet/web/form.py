"""Reads the upload and the options of POST /v1/segment, and refuses what cannot be meant. Segments nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, cast, get_args

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sgmsnet import imaging

Masks = Literal["png", "rle", "none"]

AROUND_THE_FILE = 2**16
"""Bytes that a request may have beside the file itself: boundaries, part headers, options."""
_OPTIONS_AT_MOST, _OPTION_BYTES = 32, 4096
_THRESHOLD = "threshold."


class RestError(Exception):
    """A request that gets no result: HTTP status and one sentence for a person."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request: the file, still spooled, with its sender's name for it, and the options."""

    upload: UploadFile
    name: str
    engine: str
    masks: Masks
    thresholds: dict[str, float]


async def read(request: Request, *, most: int = imaging.MAX_BYTES) -> Asked:
    """Parse a multipart request whose file has at most `most` bytes.

    Raises RestError: 413 as soon as more has come or was announced, 415 for another kind of body, 400 for
    a malformed one, for a missing file and for options that make no sense.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise RestError(415, "Send the image as multipart/form-data in the field 'file'.")
    limit = most + AROUND_THE_FILE
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(most)
    parser = MultiPartParser(
        request.headers,
        _limited(request, limit, most),
        max_files=1,
        max_fields=_OPTIONS_AT_MOST,
        max_part_size=_OPTION_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RestError(400, f"The form cannot be read: {error.message.rstrip('.')}.") from None
    except (ValueError, LookupError):  # an exotic charset that the text does not keep to
        raise RestError(400, "The form cannot be read: its text is not in the charset it names.") from None
    except ClientDisconnect:
        raise RestError(400, "The connection ended before the form did.") from None
    uploads = {name: part for name, part in form.multi_items() if isinstance(part, UploadFile)}
    if "file" not in uploads:
        for stray in uploads.values():
            stray.file.close()
        raise RestError(400, "There is no file in the field 'file'.")
    upload = uploads["file"]
    fields = [(name, part) for name, part in form.multi_items() if isinstance(part, str)]
    try:
        if (upload.size or 0) > most:
            raise _too_large(most)
        return _asked(upload, [*request.query_params.multi_items(), *fields])
    except RestError:
        upload.file.close()
        raise


async def _limited(request: Request, limit: int, most: int) -> AsyncGenerator[bytes, None]:
    came = 0
    async for chunk in request.stream():
        came += len(chunk)
        if came > limit:
            raise _too_large(most)
        yield chunk


def _too_large(most: int) -> RestError:
    return RestError(413, f"The file is larger than {most // 2**20} MB.")


def _asked(upload: UploadFile, options: list[tuple[str, str]]) -> Asked:
    given = dict(options)
    if len(given) < len(options):
        raise RestError(400, "An option is given more than once.")
    thresholds = {
        name.removeprefix(_THRESHOLD): _number(name, given.pop(name))
        for name in list(given)
        if name.startswith(_THRESHOLD)
    }
    engine, masks = given.pop("engine", ""), given.pop("masks", "png")
    if masks not in get_args(Masks):
        raise RestError(400, f"The option masks must be png, rle or none, not {_printable(masks)!r}.")
    if given:
        raise RestError(
            400, f"There is no option {_printable(next(iter(given)))!r}; there are engine, masks and threshold.CLASS."
        )
    return Asked(
        upload=upload,
        name=_file_name(upload.filename or ""),
        engine=engine,
        masks=cast("Masks", masks),
        thresholds=thresholds,
    )


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RestError(400, f"The option {_printable(name)} must be a number, not {_printable(text)!r}.") from None


def _file_name(sent: str) -> str:
    """The base name, whichever system it comes from, as text that JSON can carry."""
    name = PurePosixPath(sent.replace("\\", "/")).name
    return _printable(name, most=200) or "upload"


def _printable(text: str, *, most: int = 60) -> str:
    """On one line and not endless; a lone surrogate, which UTF-8 cannot carry, is not printable either."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:most]
