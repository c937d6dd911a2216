#!/usr/bin/env python3
"""A shop with one order, in the format that its version speaks.

  3.9  the old format, whatever is asked for
  4.0  both: the new one to who accepts it, the old one to everybody else
  4.1  the new format only

FORGETS=old makes a 4.0 that should have served both and does not.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = os.environ["TRUNDLE_VERSION"]
NEW = "application/vnd.shop.v2+json"


def order(accepts):
    knows_new = not VERSION.startswith("3.")
    knows_old = not VERSION.startswith("4.1") and os.environ.get("FORGETS") != "old"
    if knows_new and (NEW in accepts or not knows_old):
        return NEW, {"id": 7, "total": {"cents": 1250, "currency": "EUR"}}
    return "application/json", {"id": 7, "total": "12.50"}


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/ready":
            kind, body = "text/plain", b"ok"
        else:
            kind, answer = order(self.headers.get("Accept", ""))
            body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", int(sys.argv[1])), Shop)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"shop {VERSION} listens on {sys.argv[1]}", flush=True)
server.serve_forever()
