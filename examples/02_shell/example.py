#!/usr/bin/env python3
"""Runs shell scripts in a sandbox: exit codes, both outputs, the usual tools."""

import http.client
import json
import os

ADDR = os.environ.get("EMBERD_ADDR", "127.0.0.1:7777")


def call(method, path, body=None):
    """Sends one request; returns its status and its JSON answer."""
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def run(path, code, **more):
    status, outcome = call("POST", path + "/exec", {"code": code, **more})
    assert status == 200, (status, outcome)
    return outcome


status, sandbox = call("POST", "/sandboxes", {"language_pack": "shell"})
assert status == 201, (status, sandbox)
path = "/sandboxes/" + sandbox["id"]
try:
    # A program that fails is answered with 200 and its exit code.
    outcome = run(path, "echo out; echo err >&2; exit 3")
    assert outcome["exit_code"] == 3, outcome
    assert (outcome["stdout"], outcome["stderr"]) == ("out\n", "err\n"), outcome
    print("exit code 3, outputs apart")

    # A program killed by signal n has the exit code 128 + n, as in shells.
    outcome = run(path, "kill -9 $$")
    assert (outcome["exit_code"], outcome["signal"]) == (137, 9), outcome
    print("killed by signal", outcome["signal"])

    words = "the cat the dog the end"
    count = "tr ' ' '\\n' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2, $1 }'"
    outcome = run(path, count, stdin=words)
    assert outcome["stdout"] == "the 3\n", outcome
    print("most frequent word:", outcome["stdout"].strip())
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status
print("deleted")
