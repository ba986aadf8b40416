#!/usr/bin/env python3
"""Starts a process, follows its output, writes to its input, and reconnects after a break."""

import json
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox, stream


def events(path, last=None):
    """Yields the events of a process after the event numbered `last`."""
    headers = {} if last is None else {"last-event-id": str(last)}
    for line in stream("GET", path + "/events", headers=headers):
        if line.startswith(b"data:"):
            yield json.loads(line[5:])


with sandbox("python") as path:
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
print("deleted")
