#!/usr/bin/env python3
"""Shows that files and processes outlive an exec, until the sandbox is deleted."""

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


def create():
    status, sandbox = call("POST", "/sandboxes", {"language_pack": "python"})
    assert status == 201, (status, sandbox)
    return "/sandboxes/" + sandbox["id"]


def run(path, code):
    status, outcome = call("POST", path + "/exec", {"code": code})
    assert status == 200, (status, outcome)
    assert outcome["exit_code"] == 0, outcome
    return outcome["stdout"]


READ = "import pathlib; p = pathlib.Path('note'); print(p.read_text() if p.exists() else 'none')"

path = create()
try:
    run(path, "open('note', 'w').write('remember me')")
    assert run(path, READ) == "remember me\n"
    print("a file outlives the exec that wrote it")

    # Every exec is a new interpreter, so variables do not outlive it.
    run(path, "x = 1")
    assert run(path, "print('x' in globals())") == "False\n"
    print("a variable does not")
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status

path = create()
try:
    assert run(path, READ) == "none\n"
    print("and nothing is left of it in another sandbox")
finally:
    status, _ = call("DELETE", path)
    assert status == 204, status
