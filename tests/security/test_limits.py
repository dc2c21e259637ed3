"""Files that try to be more than they say: refused by what the header declares, or read; quickly, never in part."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmsnet import imaging, radiograph
from sgmsnet.imaging import UnreadableImageError
from tests.fakes import draw_xray
from tests.needs import ROOT
from tests.security import mutate

GREY = Image.fromarray(mutate.PIXELS)


def outcome(data: bytes) -> str:
    """ "read", or the sentence of the refusal; it may take a second."""
    began = time.perf_counter()
    try:
        imaging.load(data, name="x")
        said = "read"
    except UnreadableImageError as error:
        said = str(error)
        assert said.startswith("x: ")
        assert said.endswith(".")
    assert time.perf_counter() - began < 5
    return said


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """A small PNG with chunks put in after its header."""
    data = mutate.encoded(GREY, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize("file", ["covid_adult_2.jpg", "normal_adult_4.jpg"])
def test_an_example_cut_at_every_kilobyte_is_refused(file: str) -> None:
    data = (ROOT / "examples" / file).read_bytes()
    for length in range(0, len(data) - 1024, 1024):
        assert outcome(data[:length]) != "read", length


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "DICOM"])
def test_files_cut_at_every_kilobyte_are_refused(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 240)).astype(np.uint8)
    data = mutate.dicom(pixels) if kind == "DICOM" else mutate.encoded(Image.fromarray(pixels), kind)
    assert outcome(data) == "read"
    for length in range(0, len(data) - 1024, 1024):
        assert outcome(data[:length]) != "read", length


def test_enormous_sizes_in_a_header_are_refused_by_the_header() -> None:
    jpeg = bytearray(mutate.encoded(GREY, "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    assert "65535 by 65535 pixels" in outcome(bytes(jpeg))
    tiff = bytearray(mutate.encoded(GREY, "TIFF"))
    directory = struct.unpack_from("<I", tiff, 4)[0]
    for entry in range(struct.unpack_from("<H", tiff, directory)[0]):
        place = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from("<HH", tiff, place)
        if tag in (256, 257):
            struct.pack_into("<I" if kind == 4 else "<H", tiff, place + 8, 60_000)
    assert "60000 by 60000 pixels" in outcome(bytes(tiff))
    assert "pixels" in outcome(mutate.dicom(mutate.PIXELS, Rows=65535, Columns=65535))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_a_png_s_texts_does_not_go_off(kind: bytes) -> None:
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    many = png_with(*[chunk(kind, head + bomb)] * 3)
    code = "import sys; from sgmsnet import imaging\ntry: imaging.load(sys.stdin.buffer.read())\n"
    code += "except imaging.UnreadableImageError: pass\n"
    assert peak_mb(code, many) < 500


def peak_mb(code: str, given: bytes) -> float:
    """The most memory resident of a process of its own, which gets `given` on its standard input."""
    # Not getrusage: what it calls the peak begins with that of the process that started this one.
    code += "print(open('/proc/self/status').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=given, capture_output=True, check=True, timeout=120
    )
    peak_kb = re.search(rb"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak_kb is not None
    return int(peak_kb[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("kind", "copies"), [("PNG", 3), ("DICOM", 4)])
def test_a_large_image_takes_a_few_copies_of_its_pixels(kind: str, copies: int) -> None:
    code = "import sys; from sgmsnet import imaging, dicom\ndata = sys.stdin.buffer.read()\n"
    use = "imaging.prepare(imaging.load(data), height=224, width=224)\n"
    data, pixels_mb = mutate.large(kind), np.prod(mutate.LARGE[kind]) * 2 / 2**20
    nothing = peak_mb(code + "imaging.load(data)\n", mutate.encoded(GREY, "PNG"))
    assert peak_mb(code + use, data) < nothing + len(data) / 2**20 + (copies + 0.5) * pixels_mb


@pytest.mark.parametrize("kind", ["PNG", "DICOM"])
def test_large_images_are_decoded_one_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded_as(kind)
    monkeypatch.setattr(radiograph, "LARGE_PIXELS", mutate.PIXELS.size - 1)
    with ThreadPoolExecutor(1) as pool:
        with radiograph.room_for(*mutate.PIXELS.shape):
            second = pool.submit(imaging.load, data)
            assert not wait([second], timeout=0.3).done
        assert second.result(30).pixels.shape == mutate.PIXELS.shape
    with radiograph.room_for(*mutate.PIXELS.shape):
        monkeypatch.setattr(radiograph, "LARGE_PIXELS", mutate.PIXELS.size)
        assert imaging.load(data).pixels.shape == mutate.PIXELS.shape  # a small one waits for none


def encoded_as(kind: str) -> bytes:
    return mutate.dicom(mutate.PIXELS) if kind == "DICOM" else mutate.encoded(GREY, kind)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("GIF", {"save_all": True}),
        ("WEBP", {"save_all": True}),
        ("BMP", {}),
        ("ICO", {}),
        ("TGA", {}),
        ("PPM", {}),
        ("PDF", {}),
        ("EPS", {}),
    ],
)
def test_only_the_formats_on_offer_are_decoded(format: str, options: dict[str, bool]) -> None:
    more = {"append_images": [GREY.rotate(90)]} if options else {}
    data = mutate.encoded(GREY.convert("L"), format, **options, **more)
    assert outcome(data) == "x: this is not a PNG, JPEG, TIFF or DICOM file."


def test_nothing_of_ours_lets_pillow_guess_a_format() -> None:
    """Image.open tries every decoder that Pillow has; our own files apart, it must not see a stranger's bytes."""
    for path in [*(ROOT / "sgmsnet").rglob("*.py"), *(ROOT / "engines").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        if "training" not in path.parts:
            assert "Image.open(" not in source, path


def test_a_script_or_archive_behind_a_picture_s_first_bytes_is_refused() -> None:
    for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", bytes(128) + b"DICM"):
        for rest in (b"<script>alert(1)</script>", b"PK\x03\x04" + bytes(100), b"", b"\0" * 4096):
            assert outcome(magic + rest) != "read"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"])
def test_every_mode_of_a_tiff_is_read_or_refused(mode: str) -> None:
    image = (
        Image.fromarray(mutate.PIXELS.astype(np.uint16))
        if mode == "I;16"
        else GREY.convert("RGB" if mode == "LAB" else mode)
    )
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    said = outcome(mutate.encoded(image, "TIFF"))
    assert (said == "read") == (mode not in ("F", "YCbCr"))  # Pillow itself does not read the YCbCr that it writes


def test_names_as_long_and_strange_as_a_disk_takes_are_written_or_told(tmp_path: Path, tiny_model: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [
        "..png",
        "...png",
        "röntgen \U0001fa7b.png",
        "-rf.png",
        " .png",
        "a" * 250 + ".png",
        "new\nline.png",
        "con.png",
    ]
    buffer = BytesIO()
    Image.fromarray(draw_xray(64, 64)).save(buffer, "png")
    for name in names:
        (folder / name).write_bytes(buffer.getvalue())
    command = [sys.executable, "-m", "sgmsnet", "predict", str(folder), "--output", str(output)]
    command += ["--model", str(tiny_model), "--engine", "onnxruntime"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    written = [path.name for path in output.rglob("*_lungs.png")]
    assert len(written) == len(names)
    outside = {path for path in tmp_path.iterdir() if path not in (folder, output)}
    assert not outside
