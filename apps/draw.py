"""Open a page to draw on: every exported model says at once which class it sees.

    python -m apps.draw
    python -m apps.draw --port 9000 --no-browser

Reads outputs/onnx/ and outputs/tables/summary.csv, and serves one page on this machine's loopback address
until Ctrl-C ends it. The models also answer pictures that are dropped on the page, pasted or opened. Nothing
is stored, and nothing but the page is served.
"""

import argparse
import asyncio
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from apps.preparation import as_is, has_form, open_picture, prepare
from stages.common import exported
from stages.console import command
from stages.console.errors import UserError
from stages.draw_page import evaluated, pad_size, render

HOST = "127.0.0.1"
LARGEST_FILE = 20_000_000
"""The most bytes of a picture's file."""
MOST = 20
"""The most images that are answered in one picture."""
PATIENCE = 20
"""Seconds that the body of a request may take to arrive."""
AT_ONCE = 40
"""The most connections at once; further ones are refused."""
BYTES = "application/octet-stream"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8750, help="where the page is served, 8750 unless given")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    arguments = parser.parse_args()
    listening = listen(arguments.port)
    app = application(load_models())
    address = f"http://{HOST}:{listening.getsockname()[1]}/"
    print(f"{address} – Ctrl-C ends it", flush=True)
    if not arguments.no_browser:  # some browsers block until they are closed
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    server(app).run(sockets=[listening])


def listen(port: int) -> socket.socket:
    """A socket that listens at a port of the loopback address; 0 is any. Raises UserError if it cannot."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or "allowed: 0 to 65535"
        raise UserError(f"port {port}: {reason}; choose another by --port") from None
    return listening


def load_models() -> list[exported.Exported]:
    """The exported models, the most accurate first. Raises UserError if there is none."""
    paths = [path for model in evaluated() if (path := exported.path_of(model)).is_file()]
    if not paths:
        raise UserError(f"{exported.FOLDER} holds no model: `{exported.REMEDY}` makes them")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(exported.load, paths))


def server(app: Starlette) -> uvicorn.Server:
    """Uvicorn as the page needs it: it does not print errors in requests of strangers."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=AT_ONCE,
            timeout_graceful_shutdown=1,
        )
    )


def application(models: list[exported.Exported]) -> Starlette:
    """The page of these models, and the two requests that it sends.

    POST /drawing: the ink of the pad, one byte per pixel. POST /picture: the file of a picture. Both are
    answered with a list of what was found, left to right: {image: gray levels row by row, probabilities: a
    list for each model}. Errors are answered with a status and {error: what is wrong}.
    """
    first = models[0]
    html, policy = render(
        {model.name: model.sure_above for model in models}, first.classes, first.image_size, None
    )
    width, height = pad_size(first.image_size)
    # Few threads: each holds memory, and decoding a large picture takes much.
    questions, asked = ThreadPoolExecutor(os.cpu_count()), ThreadPoolExecutor(os.cpu_count())

    def answers(picture: Image.Image) -> list[dict[str, list]]:
        if has_form(picture, first.image_size, first.ground):
            images = [as_is(picture, first.image_size, first.ground)]
        elif not (images := prepare(picture, first.image_size, first.ground)[:MOST]):
            return []
        batch = np.stack(images)
        found = asked.map(lambda model: model.predict_proba(batch), models)
        of_images = np.stack(list(found), axis=1).astype(float)  # (images, models, classes)
        return [
            {"image": image.ravel().tolist(), "probabilities": probabilities.tolist()}
            for image, probabilities in zip(images, of_images, strict=True)
        ]

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": policy})

    async def drawing(request: Request) -> Response:
        ink = await body(request, width * height)
        if len(ink) != width * height:
            raise HTTPException(400, f"a drawing has {width * height} bytes, not {len(ink)}")
        return await answer(lambda: Image.frombytes("L", (width, height), ink))

    async def picture(request: Request) -> Response:
        content = await body(request, LARGEST_FILE)
        return await answer(lambda: open_picture(BytesIO(content), "the file"))

    async def answer(read: Callable[[], Image.Image]) -> Response:
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(questions, lambda: answers(read()))
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        return JSONResponse(found, headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/drawing", drawing, methods=["POST"]),
            Route("/picture", picture, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={HTTPException: explain},
    )


async def body(request: Request, most: int) -> bytes:
    """The body of a request, whatever length it claims. Raises HTTPException if it exceeds `most` bytes.

    Pages of other origins need permission to send this type of content, and do not get it.
    """
    if request.headers.get("content-type") != BYTES:
        raise HTTPException(415, f"the content must be {BYTES}")
    content = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise HTTPException(413, f"more than {most:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the content took more than {PATIENCE} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the content ended early") from None
    return bytes(content)


async def explain(request: Request, error: Exception) -> Response:
    """The answer to a wrong request. Its connection is closed because the rest of its body is not read."""
    headers = {**HEADERS, "Connection": "close"}
    return JSONResponse({"error": error.detail}, error.status_code, headers)


if __name__ == "__main__":
    command.run(main)
