#!/usr/bin/env python3
"""Starts a web server in a sandbox and talks to it from outside."""

import http.client
import json
import os

ADDR = os.environ.get("EMBERD_ADDR", "127.0.0.1:7777")
PORT = 8000

# Runs in the sandbox. The server outlives the exec, which waits until it listens.
START = f"""
import pathlib, socket, subprocess, sys, time
site = pathlib.Path("/tmp/site")
site.mkdir()
(site / "index.html").write_text("hello from inside\\n")
subprocess.Popen(
    [sys.executable, "-m", "http.server", "{PORT}", "--bind", "127.0.0.1", "--directory", site],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    start_new_session=True,
)
for _ in range(600):
    try:
        socket.create_connection(("127.0.0.1", {PORT})).close()
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
else:
    sys.exit("the server does not listen")
"""


def send(method, path, body=None, headers=None):
    """Sends one request; returns its status and its answer."""
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def call(method, path, body=None):
    """Calls the API; returns status and JSON answer."""
    status, text = send(method, path, body, {"content-type": "application/json"})
    return status, json.loads(text) if text else None


status, sandbox = call("POST", "/sandboxes", {"language_pack": "python"})
assert status == 201, (status, sandbox)
path = "/sandboxes/" + sandbox["id"]
# A host name cannot contain the id's `_`, so `-` replaces it.
host = f"{PORT}-{sandbox['id'].replace('_', '-')}.localhost"
try:
    # Nothing listens yet, which the answer reports.
    status, text = send("GET", "/", headers={"host": host})
    assert (status, json.loads(text)["code"]) == (502, "port_closed"), text
    print(status, json.loads(text)["error"])

    status, outcome = call("POST", path + "/exec", {"code": START, "timeout_ms": 120000})
    assert (status, outcome["exit_code"]) == (200, 0), outcome

    # By the host name, as a browser would: http://8000-sb-….localhost:7777/
    status, text = send("GET", "/", headers={"host": host})
    assert (status, text) == (200, b"hello from inside\n"), (status, text)
    print("by host:", text.decode().strip())

    # By headers, if the caller cannot choose the host name.
    named = {"x-emberd-sandbox": sandbox["id"], "x-emberd-port": str(PORT)}
    status, text = send("GET", "/index.html", headers=named)
    assert (status, text) == (200, b"hello from inside\n"), (status, text)
    print("by headers:", text.decode().strip())

    status, metrics = call("GET", path + "/metrics")
    assert status == 200 and metrics["memory_used_bytes"] > 0, metrics
    print(metrics["process_count"], "processes use", metrics["memory_used_bytes"] >> 20, "MiB")
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status
print("deleted")
