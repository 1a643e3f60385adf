#!/usr/bin/env python3
"""Pictures over HTTP and as a bucket of S3, on loopback, after an answer time.

    python benches/stream/server.py FOLDER      prints its port, and serves until its stdin ends

The address says how long the answer takes: `/after/20/7.jpg` in 20 ms, and the same below a bucket,
`/pictures/after/20/7.jpg`. All files are in memory. Keeps connections open and reads ranges, as S3
does.
"""

import asyncio
import pathlib
import re
import sys

REQUEST = re.compile(rb"GET \S*/after/(\d+)/(\S+) HTTP/1\.1\r\n")
RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d*)\r\n", re.I)
HEAD = (
    b"HTTP/1.1 %s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nAccept-Ranges: bytes\r\n"
    b'ETag: "0"\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n%s\r\n'
)


class Answering(asyncio.Protocol):
    files: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            request, self.received = self.received.split(b"\r\n\r\n", 1)
            request += b"\r\n"
            asked = REQUEST.match(request)
            delay = int(asked[1]) / 1e3 if asked else 0.0
            answer = self.answer(request, self.files.get(asked[2]) if asked else None)
            asyncio.get_running_loop().call_later(delay, self.transport.write, answer)

    def answer(self, request: bytes, body: bytes | None) -> bytes:
        if body is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if part := RANGE.search(request):
            first, size = int(part[1]), len(body)
            last = min(int(part[2] or size), size - 1)
            body = body[first : last + 1]
            where = b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, size)
            return HEAD % (b"206 Partial Content", len(body), where) + body
        return HEAD % (b"200 OK", len(body), b"") + body


async def serve(folder: pathlib.Path) -> None:
    Answering.files = {path.name.encode(): path.read_bytes() for path in folder.iterdir()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(pathlib.Path(sys.argv[1])))
