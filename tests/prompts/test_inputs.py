"""Files and images that go along with a prompt."""

from __future__ import annotations

import array
import base64
import io
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bgmagic.errors import BadInput
from bgmagic.prompts.inputs import MOST, file_parts
from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer


def image(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (3, 2), 1).save(out, format=kind)
    return out.getvalue()


PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n\0"
DOCX = b"PK\x03\x04\x14\0\0\0\x08\0"
XLS = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"


def opened(part: dict[str, Any]) -> tuple[str, bytes]:
    """The MIME type and the content of a part."""
    url = part.get("image_url") or part["file_data"]
    head, _, data = url.partition(",")
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return head[5:-7], base64.b64decode(data, validate=True)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
@pytest.mark.parametrize("name", ["right", "wrong.txt", "wrong.pdf"])
def test_images_are_known_by_their_content(kind: str, name: str, tmp_path: Path) -> None:
    """An image is an image whatever its file is called, byte for byte."""
    (tmp_path / name).write_bytes(image(kind))
    (part,) = file_parts([str(tmp_path / name)])
    assert (part["type"], part["detail"]) == ("input_image", "auto")
    assert opened(part) == (f"image/{kind}", image(kind))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.pdf", PDF, "application/pdf"),
        ("old.pdf", b"%PDF-1.1\n1 0 obj\n", "application/pdf"),
        ("magic.py", b'# Look for the mark\nMARK = b"%PDF-"\n', "text/x-python"),
        ("notes.txt", b"%PDF-1.7 is how such files begin", "text/plain"),
        ("gif.txt", b"GIF89a is older than PNG", "text/plain"),
        ("scan.dat", PDF, "application/pdf"),
        ("notes.md", "# Größe".encode(), "text/markdown"),
        ("table.csv", b"a,b\n1,2\n", "text/csv"),
        ("data.json", b"{}", "application/json"),
        ("fit.py", b"x = 1\n", "text/x-python"),
        ("fit.jl", b"x = 1\n", "text/plain"),
        ("README", b"Hello.\n", "text/plain"),
        ("old.txt", "Größe\n".encode("latin-1"), "text/plain"),
        ("wide.txt", "Größe".encode("utf-16"), "text/plain"),
        ("a.docx", DOCX, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.XLS", XLS, "application/vnd.ms-excel"),
    ],
)
def test_documents_keep_their_name(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    """PDF, Office and text files go as they are, with their name and the type that they have."""
    (tmp_path / name).write_bytes(content)
    (part,) = file_parts([tmp_path / name])
    assert (part["type"], part["filename"]) == ("input_file", name)
    found, data = opened(part)
    assert data == content
    assert found == kind or (kind.startswith("text/") and found.startswith("text/"))


def test_what_variables_may_hold() -> None:
    """Bytes of any kind, images of any mode, and lists of them become parts, in order."""
    figure = Figure((1, 1))
    axes = figure.add_subplot()
    axes.plot([1, 2])
    given_ = [PDF, bytearray(b"text"), memoryview(image("gif")), io.BytesIO(image("png"))]
    parts = file_parts([given_, Image.new("CMYK", (4, 4)), [Image.new("I", (2, 2)), figure], axes])
    assert [part.get("filename") for part in parts] == [
        "attachment-1.pdf", "attachment-2.txt", None, None, None, None, None, None,
    ]  # fmt: skip
    kinds = [opened(part)[0] for part in parts[2:]]
    assert kinds == ["image/gif", *["image/png"] * 5]
    sizes = [Image.open(io.BytesIO(opened(part)[1])).size for part in parts[4:]]
    assert sizes[:2] == [(4, 4), (2, 2)]
    assert min(sizes[2]) > 40


def test_pixels_arrive_exactly() -> None:
    """An image out of a variable loses nothing on its way."""
    drawn = Image.frombytes("RGBA", (16, 16), os.urandom(16 * 16 * 4))
    (part,) = file_parts([drawn])
    assert Image.open(io.BytesIO(opened(part)[1])).tobytes() == drawn.tobytes()


@pytest.mark.parametrize(("mode", "code"), [("I;16", "H"), ("I", "i"), ("F", "f")])
def test_deep_images_arrive_exactly_or_not_at_all(mode: str, code: str) -> None:
    """A grey image of 16 or 32 bits goes where 8 hold its values; PIL would make all else white."""
    few, many = array.array(code, range(256)), array.array(code, range(0, 65536, 256))
    (part,) = file_parts([Image.frombytes(mode, (16, 16), few.tobytes())])
    assert Image.open(io.BytesIO(opened(part)[1])).tobytes() == bytes(range(256))
    with pytest.raises(BadInput, match=r"not whole ones from 0 to 255; scale them first"):
        file_parts([deep := Image.frombytes(mode, (16, 16), many.tobytes())])
    (part,) = file_parts([deep.point(lambda value: value / 256).convert("L")])  # as it says
    assert Image.open(io.BytesIO(opened(part)[1])).tobytes() == bytes(range(256))


def test_photos_stay_photos() -> None:
    """An image that was opened from a JPEG goes as one, which is quicker and smaller than a PNG of it."""
    opened_ = Image.open(io.BytesIO(image("jpeg")))
    (part,) = file_parts([opened_])
    assert opened(part)[0] == "image/jpeg"


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("https://example.org/a.PNG?x=1", {"type": "input_image", "detail": "auto"}),
        ("http://example.org/a.pdf", {"type": "input_file"}),
        ("https://example.org/", {"type": "input_file"}),
    ],
)
def test_addresses_are_passed_on(address: str, part: dict[str, str]) -> None:
    """An http(s) address is not fetched here; what ends like an image is one."""
    field = "image_url" if part["type"] == "input_image" else "file_url"
    assert file_parts([address]) == [{**part, field: address}]


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("none.png", "there is no file none.png in /"),
        ("figure", r"there is no file figure in /.*; for what is in a variable write \$figure"),
        (".", r"^--file \. is a folder: name the files in it"),
        (" ", "^--file needs the path of a file$"),
        (ENDLESS, "^--file: too many lists within each other$"),
        ("~nobody-here/x", "can't be read: "),
        ("a\0b", "can't be read: "),
        ("x" * 5000, "can't be read: File name too long"),
        ("/dev/null", "^--file /dev/null is no file"),
        (b"", "the value is empty"),
        ("empty.txt", "empty.txt is empty"),
        (
            b"\0\1\2\3",
            "what is in the variable is of a kind that the API does not take; it takes images",
        ),
        ("a.bmp", "a.bmp is an image that the API does not take; save it as PNG"),
        ("a.heic", "a.heic is an image that the API does not take"),
        ("a.zip", "a.zip is of a kind that .*; it takes images .*PDF, Office documents and text$"),
        ("fake.docx", "fake.docx is of a kind that the API does not take"),
        (5, "takes a path, bytes, a PIL image or a matplotlib figure, not int"),
        (None, "not NoneType"),
        ({"a": 1}, "not dict"),
        ("big.bin", "^--file big.bin has 51 MB, too much: one request takes 50 MB of files"),
        ([b"a" * (MOST // 2 + 1)] * 2, "the files are too large together"),
    ],
)
def test_what_cannot_go_along_is_one_line(
    value: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not there, can't be read, is too large, empty or of a kind that the API does not take is one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.bmp").write_bytes(image("bmp"))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "a.zip").write_bytes(DOCX)
    (tmp_path / "fake.docx").write_bytes(zlib.compress(os.urandom(500)) + b"\0")
    with (tmp_path / "big.bin").open("wb") as big:
        big.truncate(51 * 2**20)
    with pytest.raises(BadInput, match=told) as caught:
        file_parts([value])
    assert str(caught.value).startswith("--file")
    assert "\n" not in str(caught.value)


def test_a_drawing_that_fails_is_one_line() -> None:
    """A figure or an image that can't be drawn is told as such."""

    class Broken(Image.Image):
        mode = "RGB"

        def save(self, *_: Any, **__: Any) -> None:
            raise OSError("no\nencoder")

    with pytest.raises(BadInput, match=r"--file: the Broken can't be drawn: no encoder"):
        file_parts([Broken()])


def test_paths_are_those_of_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is relative to the working directory, and ~ is the home folder."""
    (tmp_path / "a.txt").write_text("here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_parts(["a.txt"]) == file_parts(["~/a.txt"]) == file_parts([tmp_path / "a.txt"])


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_arrive_exactly_or_are_refused(data: bytes) -> None:
    """Whatever bytes there are, they arrive as they are or are one line."""
    try:
        (part,) = file_parts([data])
    except BadInput:
        return
    assert opened(part)[1] == data


FIGURE = """
import matplotlib
matplotlib.use("agg")
from matplotlib import pyplot
figure, axes = pyplot.subplots()
axes.plot([1, 3, 2])
image = open("plot.png", "rb").read()
"""


def test_in_a_kernel(in_kernel: Kernel, server: ScriptedServer, tmp_path: Path) -> None:
    """Files named in the line and held by variables stand beside the text in the last turn; a wrong one sends nothing."""
    (tmp_path / "plot.png").write_bytes(image("png"))
    (tmp_path / "my notes.txt").write_text("Remember.")
    in_kernel.ok(f"%cd -q {tmp_path}")
    in_kernel.ok(FIGURE)
    line = "-o seen --file plot.png --file 'my notes.txt' --file $image --file $figure"
    in_kernel.ok(f"%%bgresponse {line} --file https://example.org/a.pdf --wait\nWhat is this?")
    (sent,) = [seen.body["input"] for seen in server.seen if seen.kind == "create"]
    (turn,) = sent
    text, plot, notes, held, figure, linked = turn["content"]
    assert text == {"type": "input_text", "text": "What is this?\n"}
    assert plot == held
    assert opened(plot) == ("image/png", image("png"))
    assert (notes["filename"], opened(notes)) == ("my notes.txt", ("text/plain", b"Remember."))
    assert Image.open(io.BytesIO(opened(figure)[1])).size[0] > 300
    assert linked["file_url"] == "https://example.org/a.pdf"
    told = in_kernel.run("%%bgresponse -o seen --file nothing.png\nWhat is this?").said
    assert told.startswith("UsageError: --file: there is no file nothing.png in ")
    python = "bgmagic.submit('What?', file=[figure, 'plot.png'], schema=None).result(120)"
    in_kernel.ok(f"import bgmagic; {python}")
    in_kernel.ok("import bgmagic; bgmagic.submit('What?', file='plot.png').result(120)")
    counts = [len(s.body["input"][0]["content"]) for s in server.seen if s.kind == "create"]
    assert counts == [6, 3, 2]
