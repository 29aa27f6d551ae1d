"""What tools made: images, programs and files, whatever a server sends in their places."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import pickle
import re
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bgmagic.api.server import ServerConfig
from bgmagic.errors import BgmagicError
from bgmagic.jobs.artifacts import files_in, images_in, made_html, runs_in
from bgmagic.jobs.job import Answer
from bgmagic.rendering import artifacts
from bgmagic.transport.sdk import fetch_file
from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer, response


def picture(kind: str = "PNG", side: int = 8, *, noise: bool = False) -> bytes:
    size = (side, side)
    image = Image.effect_noise(size, 90).convert("RGB") if noise else Image.new("RGB", size, "red")
    made = io.BytesIO()
    image.save(made, kind)
    return made.getvalue()


def drawn(data: bytes) -> dict[str, Any]:
    return {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": base64.b64encode(data).decode(),
    }


def ran(code: Any, *logs: str) -> dict[str, Any]:
    outputs = [{"type": "logs", "logs": text} for text in logs]
    return {"type": "code_interpreter_call", "code": code, "outputs": outputs}


def shown(*items: Any) -> str:
    return made_html({"output": list(items)})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images(kind: str, tmp_path: Path) -> None:
    """An image is its bytes, can be saved and opened by pillow, and stands in the HTML as data."""
    data = picture(kind)
    answer = Answer("Here.", {"output": [drawn(data)]})
    (image,) = answer.images
    assert image == data
    assert image.format == kind.lower()
    assert image.pil().size == (8, 8)
    assert image.save(tmp_path).read_bytes() == data
    assert image.save(tmp_path / "a.img").read_bytes() == data
    source = f'src="data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"'
    assert source in answer.bundle()["text/html"]
    assert "1 image: .images[0]" in answer.bundle()["text/plain"]
    assert pickle.loads(pickle.dumps(answer)).images == (data,)
    told = drawn(data)["result"]
    for written in (
        f"data:image/png;base64,{told}",
        "\n".join((told[:9], told[9:])),
        told.rstrip("="),
    ):
        assert images_in({"output": [drawn(data) | {"result": written}]}) == (data,)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
NO_IMAGES = [
    SVG, b"GIF89a" + b"x" * 40, b"", b"\x89PNG\r\n\x1a\n<svg onload=alert(1)>", b"RIFFxxxxWEBPnothing",
    b"<!DOCTYPE html><script>",
]  # fmt: skip


@pytest.mark.parametrize("data", NO_IMAGES)
def test_what_is_no_image_is_not_shown(data: bytes) -> None:
    """Other types, SVG above all, and what only begins like an image are neither shown nor given."""
    assert images_in({"output": [drawn(data)]}) == ()
    assert shown(drawn(data)) == ""
    if data[1:4] != b"PNG" and data[8:12] != b"WEBP":  # without pillow their first bytes decide
        assert artifacts.image_type(data) == ""


def test_large_images_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a notebook can't bear is shown smaller, and without pillow a line says how to get it."""
    data = picture(side=1100, noise=True)
    assert len(data) > 1_000_000
    html = shown(drawn(data))
    assert "data:image/webp" in html
    assert len(html) < 1_500_000
    monkeypatch.setattr(artifacts, "MOST_IMAGES", 2 * len(html))
    many = shown(*[drawn(data)] * 3)
    assert len(many) < 1.4 * artifacts.MOST_IMAGES
    assert "too large to be kept" in many
    monkeypatch.setitem(sys.modules, "PIL", None)
    html = shown(drawn(data))
    assert "<img" not in html
    assert ".images[0].save(&quot;image.png&quot;)" in html
    assert "pillow" in html
    assert images_in({"output": [drawn(data)]}) == (data,)
    with pytest.raises(BgmagicError, match="pip install pillow"):
        images_in({"output": [drawn(data)]})[0].pil()


def header(kind: str, width: int, height: int) -> bytes:
    """An image of one colour with another size in its header."""
    made = picture(kind if kind in ("PNG", "JPEG") else "WEBP")
    if kind == "PNG":
        return made[:16] + struct.pack(">II", width, height) + made[24:]
    if kind == "JPEG":
        at = made.index(b"\xff\xc0") + 5
        return made[:at] + struct.pack(">HH", height, width) + made[at + 4 :]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    if kind == "VP8X":
        return made[:12] + b"VP8X\n\0\0\0\0\0\0\0" + sides + made[12:]
    bits = (width - 1) | (height - 1) << 14
    return made[:12] + b"VP8L\0\1\0\0\x2f" + bits.to_bytes(4, "little") + bytes(10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "VP8X", "VP8L"])
def test_pixels_are_counted_before_a_page_gets_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred bytes that say they are an image of very many pixels are told of and not shown, with
    and without pillow; so are images that have too many together."""
    small, bomb = header(kind, 300, 20), header(kind, 16_000, 16_000)
    several = [header(kind, 5000, 5000)] * 6
    assert artifacts.image_pixels(small) == 6000
    assert len(bomb) < 1000
    for _ in range(2):
        html = artifacts.artifacts_html([bomb], [])
        assert "<img" not in html
        assert "256.0 megapixels" in html
        monkeypatch.setitem(sys.modules, "PIL", None)
    html = artifacts.artifacts_html(several, [])
    assert html.count("<img") == artifacts.ALL_PIXELS // artifacts.PIXELS == 4
    for cut in range(12, 40):
        artifacts.image_pixels(small[:cut])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(90)}]
)
def test_pixels_of_images_as_pillow_writes_them(kind: str, options: dict[str, Any]) -> None:
    """The pixels by the header are those that pillow says."""
    made = io.BytesIO()
    Image.new("RGB", (301, 23), "blue").save(made, kind, **options)
    assert artifacts.image_pixels(made.getvalue()) == 301 * 23


def test_programs_are_text() -> None:
    """Code that was run and what it wrote stand folded, as text and bounded."""
    html = shown(
        ran("print('<b>')</pre><script>", "<img src=x onerror=alert(1)>\x1b[31m"), ran(None)
    )
    assert html.count("<details") == 1
    assert "<script" not in html
    assert "<img" not in html
    assert "\x1b" not in html
    long = shown(ran("x = 1\n" * 10_000, "y" * 50_000))
    assert len(long) < 200_000
    assert "30,000 more characters are in .response" in long
    assert shown() == shown({"type": "message"}) == ""


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=10) | st.just("iVBORw0KGgo="),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "result", "code", "outputs", "logs", "content", "annotations", "file_id"]
            ),
            inner | st.sampled_from(["image_generation_call", "code_interpreter_call"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_any_output_is_read(output: list[Any]) -> None:
    """Whatever JSON a server sends as its output, reading it raises nothing and shows no markup of its own."""
    told = {"output": output}
    assert isinstance(images_in(told), tuple)
    assert isinstance(runs_in(told), tuple)
    assert isinstance(files_in(told, None), tuple)
    tags = set(re.findall(r"<(\w+)", made_html(told)))
    assert tags <= {"details", "summary", "pre", "code", "span", "div", "img"}


CITED = [
    {
        "type": "container_file_citation",
        "file_id": "cfile_1",
        "container_id": "cntr_1",
        "filename": "/mnt/data/../../.ssh/../.plot.csv",
    },
    {"type": "file_citation", "file_id": "file_2", "filename": "a.pdf", "index": 0},
    {"type": "file_citation", "file_id": "file_2", "filename": "a.pdf", "index": 9},
    {"type": "url_citation", "url": "https://a.org"},
]


class Files(http.server.BaseHTTPRequestHandler):
    """The API's files: one in a container, one that is refused; all else has expired."""

    padding = 0  # before the key in what it refuses with

    def do_GET(self) -> None:
        if self.path == "/v1/containers/cntr_1/files/cfile_1/content":
            status, body = 200, b"1,2,3\n" * 1000
        elif self.path == "/v1/files/file_2/content":
            status, pad = 400, "." * Files.padding
            body = json.dumps(
                {"error": {"message": f"Not allowed to download{pad} key-9876543"}}
            ).encode()
        else:
            status, body = 404, b'{"error": {"message": "Container is expired."}}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def files_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        monkeypatch.setenv("OPENAI_API_KEY", "key-9876543")
        yield ServerConfig.from_environment(f"http://127.0.0.1:{made.server_port}/v1")
        made.shutdown()
        thread.join()


def test_files_are_fetched(files_at: ServerConfig, tmp_path: Path) -> None:
    """A cited file is fetched when it is asked for, up to a limit, and saved under its bare name; one
    that has expired or is refused is a line that says so, without the key."""
    told = {"output": [{"content": [{"annotations": CITED}]}]}

    def fetch(file_id: str, container: str | None, limit: int) -> bytes:
        return fetch_file(files_at, file_id, container, limit)

    plot, other = files_in(told, fetch)
    assert (plot.name, other.name) == ("plot.csv", "a.pdf")
    assert plot.read() == b"1,2,3\n" * 1000
    assert plot.save(tmp_path) == tmp_path / "plot.csv"
    with pytest.raises(BgmagicError, match="is there already"):
        plot.save(tmp_path)
    with pytest.raises(BgmagicError, match=r"more than 100 bytes: read\(limit=…\)"):
        plot.read(limit=100)
    for Files.padding in range(250, 300, 5):  # also where a line of it is cut
        with pytest.raises(BgmagicError, match="does not give file_2") as refused:
            other.read()
        assert "key-" not in str(refused.value)
    Files.padding = 0
    with pytest.raises(BgmagicError, match="20 minutes after its last use"):
        fetch_file(files_at, "cfile_9", "cntr_9", 10)
    (lonely, _) = files_in(told, None)
    with pytest.raises(BgmagicError, match="was pickled"):
        lonely.read()
    written = pickle.dumps(files_in(told, functools.partial(fetch_file, files_at)))
    assert b"9876543" not in written
    assert pickle.loads(written) == (plot, other)


@pytest.mark.parametrize("file_id", ["../up", "/tmp/abs", "..", "a/../../b", ".hidden", "c:x"])
def test_files_stay_in_their_folder(tmp_path: Path, file_id: str) -> None:
    """Whatever a server calls a file and its id, it is saved into the folder that the user names."""
    for name in (None, "..", "/", ".."):
        cited = {"type": "file_citation", "file_id": file_id, "filename": name}
        told = {"output": [{"content": [{"annotations": [cited]}]}]}
        folder = tmp_path / "here"
        folder.mkdir(exist_ok=True)
        (one,) = files_in(told, lambda *_: b"x")
        saved = one.save(folder)
        assert saved.resolve().parent == folder.resolve()
        assert not saved.name.startswith(".")
        saved.unlink()


def test_in_a_kernel(in_kernel: Kernel, server: ScriptedServer) -> None:
    """An answer that is an image alone is an answer, shown where its job was; a file is asked for at
    the job's own server, also within a running loop."""
    text = {"type": "output_text", "text": "See.", "annotations": CITED[:1]}
    both = [ran("print(1)", "1"), {"type": "message", "role": "assistant", "content": [text]}]
    outputs = [[drawn(picture())], both]
    server.ending = lambda rid, _: response(rid, "completed") | {"output": outputs.pop(0)}
    shown = in_kernel.ok("%%bgresponse -o red --tool image_generation --wait\nDraw.").displays
    assert any("data:image/png;base64," in one.get("text/html", "") for one in shown)
    assert in_kernel.value("(str(red), len(red.images), red.files)") == "('', 1, ())"
    assert "data:image/png" in in_kernel.ok("%bgjobs red").displays[0]["text/html"]
    shown = in_kernel.ok("%%bgresponse -o ran --tool code_interpreter --wait\nRun.").displays
    assert any("Code that was run" in one.get("text/html", "") for one in shown)
    said = in_kernel.run("ran.files[0].read()").said
    assert "BgmagicError: cfile_1 is no longer there" in said
