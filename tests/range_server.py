"""A file server with range requests, in a process of its own: `python range_server.py FOLDER`.

It prints its port, writes the size of each answer to FOLDER/sent.log, and answers 503 while
FOLDER/broken exists; and 403 to who does not give what FOLDER/key holds, where that exists.
"""

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RangeHandler(http.server.BaseHTTPRequestHandler):
    folder: Path

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.folder / self.path.partition("?")[0].lstrip("/")
        if (self.folder / "broken").exists():
            self.send_error(503)
            return
        key = self.folder / "key"
        if key.exists() and key.read_text() not in self.path:
            self.send_error(403)
            return
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(content)
        if match:
            start = int(match[1])
            stop = min(stop, int(match[2]) + 1 if match[2] else stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if body:
            with (self.folder / "sent.log").open("a") as log:
                log.write(f"{stop - start}\n")
            self.wfile.write(content[start:stop])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder, and give its URL."""
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    RangeHandler.folder = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    print(server.server_port, flush=True)
    server.serve_forever()
