"""A page whose pictures Python draws: two addresses on the standard library's server, no further package."""

import html
import io
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from fpd_core.generator import Generator
from fpd_core.teachers.fashion import CLASSES, FashionTeacher

COUNTS = (1, 4, 9, 16)


def server(generator: Generator, host: str, port: int) -> HTTPServer:
    """A server of one student, not yet running; requests are answered one after the other."""
    return HTTPServer((host, port), type("Handler", (_Handler,), {"generator": generator}))


class _Handler(BaseHTTPRequestHandler):
    generator: Generator

    def do_GET(self) -> None:
        """`/`: the page. `/grid.png?wanted=&seed=&count=`: a PNG, or one sentence of what is wrong."""
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page(self.generator).encode())
        elif parts.path == "/grid.png":
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            try:
                png = grid(self.generator, query.get("wanted", ""), int(query["seed"]), int(query["count"]))
            except (KeyError, ValueError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", str(error).encode())
            else:
                self._answer(HTTPStatus.OK, "image/png", png)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found")

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the terminal belongs to the command."""


def page(generator: Generator) -> str:
    """The HTML: a form that asks for `grid.png`."""
    model = generator.model
    if model.num_classes is None:
        field = f'<input id="wanted" name="wanted" value="{html.escape(model.example_prompts[0])}">'
    else:
        names = CLASSES if isinstance(model, FashionTeacher) else [f"class {n}" for n in range(model.num_classes)]
        options = "".join(f'<option value="{n}">{html.escape(name)}</option>' for n, name in enumerate(names))
        field = f'<select id="wanted" name="wanted">{options}</select>'
    template = files("fpd_core.demo").joinpath("serve.html").read_text()
    return template.replace("<!-- wanted -->", field)


def grid(generator: Generator, wanted: str, seed: int, count: int) -> bytes:
    """A PNG of `count` pictures in a square. Raises ValueError: no such class or prompt, a wrong seed or count."""
    if count not in COUNTS:
        raise ValueError(f"count must be one of {COUNTS}, got {count}")
    if not 0 <= seed < 2**62:
        raise ValueError(f"seed must be from 0 on and below 2^62, got {seed}")
    one = wanted if generator.model.num_classes is None else int(wanted)
    images = generator.generate([one] * count, seed=seed)
    columns = COUNTS.index(count) + 1
    size = images.shape[-1]
    tiles = images.view(columns, columns, 3, size, size).permute(0, 3, 1, 4, 2)
    pixels = (tiles.reshape(columns * size, columns * size, 3) * 255).round().byte().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
