#!/usr/bin/env python3
"""Creates a Python sandbox, runs code in it and deletes it."""

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


status, sandbox = call("POST", "/sandboxes", {"language_pack": "python"})
assert status == 201, (status, sandbox)
path = "/sandboxes/" + sandbox["id"]
try:
    status, outcome = call("POST", path + "/exec", {"code": "print(6*7)"})
    assert status == 200, (status, outcome)
    assert (outcome["stdout"], outcome["exit_code"]) == ("42\n", 0), outcome
    print("6*7 is", outcome["stdout"].strip(), "in", outcome["duration_ms"], "ms")

    # The program has standard input, arguments and environment variables of its own.
    code = "import os, sys; print(sys.stdin.read(), sys.argv[1:], os.environ['COLOUR'])"
    asked = {"code": code, "stdin": "hello", "args": ["a", "b"], "env": {"COLOUR": "ember"}}
    status, outcome = call("POST", path + "/exec", asked)
    assert outcome["stdout"] == "hello ['a', 'b'] ember\n", outcome
    print("it saw:", outcome["stdout"].strip())

    # It runs on a kernel of its own.
    code = "print(open('/proc/sys/kernel/osrelease').read(), open('/proc/1/comm').read())"
    status, outcome = call("POST", path + "/exec", {"code": code})
    assert outcome["exit_code"] == 0, outcome
    release, init = outcome["stdout"].split()
    print("guest kernel", release, "with PID 1", init, "- this host has", os.uname().release)
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status
print("deleted")
