"""The program with a page to draw on: what it answers, and what it does with what is no drawing."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module

import numpy as np
import psutil
import pytest
from conftest import ROOT, STROKES, browser_needed
from PIL import Image, ImageDraw
from test_draw_page import Hand, leave_summary, settled

from apps import draw
from stages.common import params
from stages.draw_page import PAD

pytestmark = pytest.mark.xdist_group("browser")
SIZE = PAD**2
"""Bytes of a drawing for square images."""


@pytest.fixture(scope="module")
def exported(reading_digits):
    """The project with its models exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(reading_digits)
        params.content.cache_clear()
        patch.setattr(sys, "argv", ["export"])
        import_module("stages.export").main()
    params.content.cache_clear()
    return reading_digits


@pytest.fixture(scope="module")
def served(exported):
    """The address of the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(exported)
        app = draw.application(draw.load_models())
    listening = draw.listen(0)
    server = draw.server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def ask(address, method="GET", path="/", content=None, **headers):
    """Status, headers and content of the answer."""
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)
    sent = {"Content-Type": draw.BYTES} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, content, sent)
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def strokes_of(*digits, width=26, size=PAD):
    """A picture with white strokes on black, a digit beside the other."""
    picture = Image.new("L", (size * len(digits), size))
    for place, digit in enumerate(digits):
        for stroke in STROKES[digit]:
            points = [(size * (place + 0.25 + x / 200), size * (0.2 + 0.6 * y / 100)) for x, y in stroke]
            ImageDraw.Draw(picture).line(points, 255, width, joint="curve")
    return picture


def photograph(*digits):
    """The PNG file of dark strokes on paper with a shadow and noise."""
    ink = np.asarray(strokes_of(*digits), float) / 255
    columns = ink.shape[1]
    paper = 200 - 40 * np.arange(columns) / columns + np.random.default_rng(2).normal(0, 4, ink.shape)
    return png(Image.fromarray((paper * (1 - 0.7 * ink)).clip(0, 255).astype(np.uint8)))


def png(picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@browser_needed
@pytest.mark.parametrize(
    ("way", "digit", "size", "options"),
    [
        ("mouse", "5", "desk", {}),
        ("finger", "3", "phone", {"has_touch": True, "is_mobile": True}),
        ("keys", "2", "wide", {}),
    ],
)
def test_all_models_answer_a_drawing(served, open_page, way, digit, size, options):
    page = open_page(served, size, **options)
    getattr(Hand(page), way)(digit)
    assert settled(page) == f"All 3 models say {digit}."
    names = page.locator("#answers tbody th").all_inner_texts()
    assert sorted(names) == ["scratch/mlp_relu", "scratch/mlp_sigmoid", "sklearn/knn_3"]
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


DROP = """([letters, kind]) => {
    const bytes = Uint8Array.from(atob(letters), letter => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "picture.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    document.body.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: data })
        : new ClipboardEvent("paste", { ...options, clipboardData: data }));
}"""


@browser_needed
@pytest.mark.parametrize("way", ["drop", "paste", "open"])
def test_a_picture_is_answered_digit_by_digit_and_a_drawing_takes_its_place(served, open_page, way):
    page, file = open_page(served), photograph("4", "2")
    if way == "open":
        named = {"name": "picture.png", "mimeType": "image/png", "buffer": file}
        page.get_by_label("Open a picture…").set_input_files(named)
    else:
        page.evaluate(DROP, [base64.b64encode(file).decode(), way])
    page.wait_for_selector("#found button")
    assert settled(page) == "4 2 – image 1: All 3 models say 4."
    page.get_by_role("button", name="image 2: 2").press("Enter")
    assert settled(page) == "4 2 – image 2: All 3 models say 2."
    assert page.locator("#answers td:nth-child(2)").all_inner_texts() == ["2"] * 3
    Hand(page).mouse("7")
    assert settled(page) == "All 3 models say 7."


@browser_needed
def test_what_is_no_picture_is_said_and_drawing_goes_on(served, open_page):
    page = open_page(served)
    page.get_by_label("Open a picture…").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"seven"}
    )
    page.wait_for_selector("#message:not(:empty)")
    assert page.get_by_role("alert").inner_text() == "the file is no picture"
    assert len(open_page.complaints) == 1, "the browser's own, of the status"
    assert "400" in open_page.complaints.pop()
    Hand(page).mouse("7")
    assert settled(page) == "All 3 models say 7."
    assert page.get_by_role("alert").inner_text() == ""


def test_a_drawing_is_answered_with_the_image_and_the_probabilities_of_each_model(served):
    for digit in STROKES:
        status, _, content = ask(served, "POST", "/drawing", strokes_of(digit).tobytes())
        (found,) = json.loads(content)
        assert status == 200
        image, probabilities = np.array(found["image"]), np.array(found["probabilities"])
        assert image.shape == (784,)
        assert image.max() > 200
        assert probabilities.shape == (3, 10)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-3)
        assert list(probabilities.argmax(axis=1)) == [int(digit)] * 3
    assert ask(served, "POST", "/drawing", bytes(SIZE))[2] == b"[]", "an empty pad is no digit"


def test_nothing_but_the_page_is_had_and_no_other_page_may_ask(served):
    status, headers, content = ask(served)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'; frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert str(ROOT).encode() not in content
    for path in (
        "/index.html",
        "/outputs/metrics/scratch/mlp_relu.json",
        "/../params.yaml",
        "/%2e%2e/params.yaml",
    ):
        assert ask(served, path=path)[0] == 404
    assert ask(served, path="/drawing")[0] == 405
    assert ask(served, Host="localhost")[0] == 200
    for method, origin in (
        ("POST", "http://example.org"),
        ("OPTIONS", "http://example.org"),
        ("POST", "null"),
    ):
        headers = ask(served, method, "/drawing", strokes_of("1").tobytes(), Origin=origin)[1]
        assert not [name for name in headers if name.lower().startswith("access-control")]


def http_request(*lines, content=b"", path="drawing", host="127.0.0.1", kind=draw.BYTES):
    head = (f"POST /{path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", *lines, "", "")
    return "\r\n".join(head).encode() + content


def chunked(content):
    return b"%x\r\n%b\r\n" % (len(content), content)


def picture_of(content):
    return http_request(f"Content-Length: {len(content)}", content=content, path="picture")


def bomb():
    """A PNG of four thousand million pixels, one colour, that says so in its head."""
    content = bytearray(png(Image.new("1", (8, 8))))
    content[16:24] = (65_000).to_bytes(4, "big") * 2
    return bytes(content)


DRAWING = bytes(SIZE)
GARBAGE = {
    "longer than a drawing": (http_request(f"Content-Length: {SIZE + 1}", content=DRAWING + b"x"), 413),
    "longer, and more announced": (http_request("Content-Length: 90000000", content=DRAWING + b"x"), 413),
    "longer, in chunks": (
        http_request("Transfer-Encoding: chunked", content=chunked(DRAWING) + chunked(b"x")),
        413,
    ),
    "shorter": (http_request("Content-Length: 5", content=b"12345"), 400),
    "shorter than sent": (http_request("Content-Length: 5", content=DRAWING), 400),
    "empty": (http_request("Content-Length: 0"), 400),
    "a negative length": (http_request("Content-Length: -5", content=DRAWING), 400),
    "a length in words": (http_request("Content-Length: many", content=DRAWING), 400),
    "two lengths": (http_request("Content-Length: 5", "Content-Length: 6", content=b"12345"), 400),
    "a chunk of no size": (http_request("Transfer-Encoding: chunked", content=b"zz\r\nabc"), 400),
    "no HTTP": (np.random.default_rng(0).bytes(5000) + b"\r\n\r\n", 400),
    "another host": (http_request(f"Content-Length: {SIZE}", content=DRAWING, host="example.org"), 400),
    "another type": (http_request(f"Content-Length: {SIZE}", content=DRAWING, kind="text/plain"), 415),
    "a text for a picture": (picture_of(b"seven"), 400),
    "nothing for a picture": (picture_of(b""), 400),
    "half a picture": (picture_of(photograph("4")[:20_000]), 400),
    "a bomb": (picture_of(bomb()), 400),
}


def exchange(address, sent):
    """What comes back for these bytes."""
    host, port = address.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    return answer


@pytest.mark.parametrize(("sent", "status"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_without_a_traceback_and_the_next_drawing_answered(served, caplog, sent, status):
    assert exchange(served, sent).startswith(f"HTTP/1.1 {status} ".encode())
    answer = ask(served, "POST", "/drawing", strokes_of("7").tobytes())
    assert np.array(json.loads(answer[2])[0]["probabilities"]).argmax(axis=1)[0] == 7
    assert caplog.text == ""


def leave_early(address):
    """Announce a drawing, begin to send it, and go away."""
    host, port = address.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(http_request(f"Content-Length: {SIZE}", content=b"12345"))
        time.sleep(0.02)


def test_who_goes_away_or_sends_slowly_is_not_waited_for(served, caplog, monkeypatch):
    for _ in range(5):
        leave_early(served)
    monkeypatch.setattr(draw, "PATIENCE", 0.3)
    assert exchange(served, http_request("Content-Length: 9")).startswith(b"HTTP/1.1 408 ")
    assert ask(served)[0] == 200
    assert caplog.text == ""


@pytest.fixture
def program(exported):
    """The program in a process of its own: the process and the page's address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.draw", "--port", "0", "--no-browser"],
        cwd=exported,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        line = process.stdout.readline()
        yield process, re.fullmatch(r"(http://127\.0\.0\.1:\d+/) – Ctrl-C ends it\n", line)[1]
    finally:
        process.kill()
        process.communicate()


def test_garbage_does_not_let_the_program_grow_and_ctrl_c_ends_it_quietly(program):
    process, address = program
    drawing = strokes_of("7").tobytes()

    def rounds(count):
        for _ in range(count):
            for sent, _ in GARBAGE.values():
                exchange(address, sent)
            leave_early(address)
            for _ in range(4):
                ask(address, "POST", "/drawing", drawing)
        return psutil.Process(process.pid).memory_info().rss / 2**20

    before = rounds(8)
    assert rounds(25) - before < 6
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=10)
    assert printed == ("", "")


@pytest.mark.parametrize(("port", "complaint"), [("taken", "Address already in use"), (70000, "0 to 65535")])
def test_a_port_that_cannot_be_had_is_one_line(port, complaint):
    with draw.listen(0) as taken:
        port = taken.getsockname()[1] if port == "taken" else port
        with pytest.raises(draw.UserError, match=rf"port {port}: .*{complaint}; choose another by --port"):
            draw.listen(port)


def test_a_project_without_exported_models_is_told_the_stage(trained):
    leave_summary({"scratch/mlp_relu": (0.9, None)})
    with pytest.raises(draw.UserError, match=r"outputs/onnx holds no model: `dvc repro export` makes them"):
        draw.load_models()
