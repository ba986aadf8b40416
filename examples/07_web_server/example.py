#!/usr/bin/env python3
"""Starts a web server in a sandbox and talks to it from outside."""

import json
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox, send

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

with sandbox("python") as path:
    name = path.removeprefix("/sandboxes/")
    # A host name cannot contain the id's `_`, so `-` replaces it.
    host = f"{PORT}-{name.replace('_', '-')}.localhost"

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
    named = {"x-emberd-sandbox": name, "x-emberd-port": str(PORT)}
    status, text = send("GET", "/index.html", headers=named)
    assert (status, text) == (200, b"hello from inside\n"), (status, text)
    print("by headers:", text.decode().strip())

    status, metrics = call("GET", path + "/metrics")
    assert status == 200 and metrics["memory_used_bytes"] > 0, metrics
    print(metrics["process_count"], "processes use", metrics["memory_used_bytes"] >> 20, "MiB")
print("deleted")
