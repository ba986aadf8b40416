#!/usr/bin/env python3
"""Starts a web server in a sandbox and talks to it from outside."""

import urllib.request

import emberd

PORT = 8000


def get(sandbox, path, headers):
    """Asks what listens on the port."""
    asked = urllib.request.Request(sandbox.client.url + path, headers=headers)
    # Without the proxies of the environment.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked).read()


with emberd.Sandbox.create("python") as sandbox:
    # Nothing listens yet, which the error reports.
    try:
        sandbox.tunnel(PORT)
    except emberd.PortClosed as error:
        print(error)

    sandbox.files.write("/tmp/site/index.html", "hello from inside\n")
    server = ["python3", "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]
    with sandbox.spawn(server, cwd="/tmp/site"):
        sandbox.wait_port(PORT, timeout=120)
        print("a browser opens", sandbox.url(PORT))

        # By the host name, as a browser would: http://8000-sb-….localhost:7777/
        host = sandbox.url(PORT).removeprefix("http://").rstrip("/")
        text = get(sandbox, "/", {"host": host})
        assert text == b"hello from inside\n", text
        print("by host:", text.decode().strip())

        # By headers, if the caller cannot choose the host name.
        text = get(sandbox, "/index.html", sandbox.port_headers(PORT))
        assert text == b"hello from inside\n", text
        print("by headers:", text.decode().strip())

        metrics = sandbox.metrics()
        print(metrics["process_count"], "processes use", metrics["memory_used_bytes"] >> 20, "MiB")
print("deleted")
