#!/usr/bin/env python3
"""Starts a process, follows its output, writes to its input, and reconnects after a break."""

import http.client
import json
import os

ADDR = os.environ.get("EMBERD_ADDR", "127.0.0.1:7777")


def call(method, path, body=None):
    """Sends one request; returns its status and its JSON answer."""
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def events(path, last=None):
    """Yields the events of a process after the event numbered `last`."""
    headers = {} if last is None else {"last-event-id": str(last)}
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    connection.request("GET", path + "/events", headers=headers)
    for line in connection.getresponse():
        if line.startswith(b"data:"):
            yield json.loads(line[5:])
    connection.close()


status, sandbox = call("POST", "/sandboxes", {"language_pack": "python"})
assert status == 201, (status, sandbox)
path = "/sandboxes/" + sandbox["id"]
try:
    code = (
        "import sys\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin: print(line.upper(), end='', flush=True)\n"
    )
    status, process = call("POST", path + "/processes", {"code": code})
    assert status == 201, (status, process)
    process = f"{path}/processes/{process['pid']}"

    for event in events(process):
        print(event)
        if event.get("text") == "ready\n":
            break  # the process keeps running without a client

    assert call("POST", process + "/stdin", b"ember\n")[0] == 204
    assert call("POST", process + "/stdin?end=true", b"daemon\n")[0] == 204

    said, last = "", event["id"]
    for event in events(process, last=last):
        print(event)
        if event["event"] == "stdout":
            said += event["text"]
    assert said == "EMBER\nDAEMON\n", said
    assert (event["event"], event["exit_code"]) == ("exit", 0), event
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status
print("deleted")
