"""A server on loopback, in a process of its own, that answers each path with a harm of its own."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = b"1 2 3 4 5\n2 1 2 3 4\n" * 50
PIECE = b"1 2 3 4 5\n" * 6553


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(self.path, flush=True)
        self.close_connection = True
        getattr(self, self.path.split("/")[1])()

    def head(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def good(self):
        self.head(Content_Length=len(GOOD))
        self.wfile.write(GOOD)

    def truncated(self):
        self.head(Content_Length=len(GOOD))
        self.wfile.write(GOOD[:100])

    def wrong(self):
        other = GOOD.replace(b"5", b"6")
        self.head(Content_Length=len(other))
        self.wfile.write(other)

    def broken(self):
        self.head(500, Content_Length=0)

    def elsewhere(self):
        there = f"http://localhost:{self.server.server_port}/good/shop.txt"
        self.head(302, Location=there, Content_Length=0)

    def here(self):
        self.head(302, Location="/good/shop.txt", Content_Length=0)

    def stalled(self):
        self.head(Content_Length=len(GOOD))
        self.wfile.write(GOOD[:100])
        self.wfile.flush()
        time.sleep(30)

    def endless(self):
        self.head(Content_Type="text/plain")  # of no announced length
        for _ in range(10 * 2**30 // len(PIECE)):
            self.wfile.write(PIECE)

    def huge(self):
        self.head(Content_Length=10 * 2**30)
        for _ in range(10 * 2**30 // len(PIECE)):
            self.wfile.write(PIECE)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    sys.stderr.close()  # a client that leaves is no news
    server.serve_forever()
