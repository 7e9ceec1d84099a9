"""Makes a web page on which the sampling times of a model are bent by hand.

The folder is all that a static host needs. It needs `pip install "keras-ddim[export]"`.

examples:
  keras-ddim export flowers --to page --serve
  keras-ddim export model.keras --to page --runtime node_modules/onnxruntime-web
"""

import argparse
import functools
import http.server
import pathlib
import webbrowser

from keras_ddim import export
from keras_ddim.cli import options


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    add("--to", "page", "folder to make", metavar="FOLDER")
    add("--title", None, "name on the page (default: that of the model's file or folder)")
    runtime = "copy ONNX Runtime from this folder of the npm package onnxruntime-web, for a page "
    add("--runtime", None, runtime + "that works without a network", metavar="FOLDER")
    add("--guidance-scale", None, options.SCALE, type=float)
    add("--serve", False, "open the page in a browser", action="store_true")


def run(args: argparse.Namespace) -> None:
    model = options.load_model(args.model)
    export.export_page(
        model,
        args.to,
        title=args.title or pathlib.Path(args.model).stem,
        guidance_scale=options.scale_of(model, args.guidance_scale),
        runtime=args.runtime,
    )
    print(f"{args.to}: a page for any static host")
    if args.serve:
        with make_server(args.to) as server:
            address = f"http://127.0.0.1:{server.server_port}/"
            print(f"Serving {address} until Ctrl-C")
            webbrowser.open(address)
            server.serve_forever()


def make_server(folder: str | pathlib.Path) -> http.server.ThreadingHTTPServer:
    """A server of the files in a folder, for this machine alone, at a free port."""
    handler = functools.partial(Handler, directory=str(folder))
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files by types of its own, since those of the system may be wrong."""

    extensions_map = {  # noqa: RUF012
        **{".html": "text/html", ".css": "text/css", ".json": "application/json"},
        **{".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"},
    }

    def log_message(self, *args: object) -> None:
        """Says nothing of each request."""
