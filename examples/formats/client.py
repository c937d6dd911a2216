#!/usr/bin/env python3
"""A client that speaks one format and takes nothing else: client.py old|new HOST:PORT

Asks until its input is closed, then says as JSON how often it asked, what it could not read, and what got lost.
"""

import http.client
import json
import sys
import threading
import time

NEW = "application/vnd.shop.v2+json"


def read_old(order):
    assert set(order) == {"id", "total"} and isinstance(order["total"], str), order
    return round(float(order["total"]) * 100)


def read_new(order):
    assert set(order) == {"id", "total"} and set(order["total"]) == {"cents", "currency"}, order
    return order["total"]["cents"]


kind, address = sys.argv[1:3]
read = {"old": read_old, "new": read_new}[kind]
headers = {"User-Agent": f"shop-{kind}/1"}
if kind == "new":
    headers["Accept"] = NEW

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
asked, versions, lost, unreadable = 0, {}, [], []
connection = http.client.HTTPConnection(address, timeout=10)
while not over.is_set():
    asked += 1
    try:
        connection.request("GET", "/order/7", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {body[:200]}")
    except (OSError, http.client.HTTPException) as error:
        lost.append(repr(error))
        connection.close()
        time.sleep(0.05)
        continue
    version = answer.headers["X-App-Version"]
    versions[version] = versions.get(version, 0) + 1
    try:
        assert read(json.loads(body)) == 1250
    except (AssertionError, ValueError) as error:
        unreadable.append(f"{version}: {error!r}")
    time.sleep(0.005)
print(json.dumps({"asked": asked, "versions": versions, "lost": len(lost), "errors": len(unreadable),
                  "first": (lost + unreadable)[:1]}))
