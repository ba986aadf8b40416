"""Requests to the daemon at EMBERD_ADDR, for the examples."""

import contextlib
import http.client
import json
import os

ADDR = os.environ.get("EMBERD_ADDR", "127.0.0.1:7777")


def send(method, path, body=None, headers=None):
    """Sends one request; returns its status and its answer."""
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def call(method, path, body=None):
    """Calls the API with JSON, or with bytes; returns the status and the JSON answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    status, text = send(method, path, data, {"content-type": "application/json"})
    return status, json.loads(text) if text else None


def stream(method, path, body=None, headers=None):
    """Sends one request; yields the lines of its answer as they arrive."""
    connection = http.client.HTTPConnection(ADDR, timeout=120)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, headers or {})
    answer = connection.getresponse()
    assert answer.status == 200, (answer.status, answer.read())
    yield from answer
    connection.close()


@contextlib.contextmanager
def sandbox(pack):
    """Creates a sandbox, whose path it gives, and deletes it at the end."""
    status, created = call("POST", "/sandboxes", {"language_pack": pack})
    assert status == 201, (status, created)
    path = "/sandboxes/" + created["id"]
    try:
        yield path
    finally:
        status, _ = call("DELETE", path)
        assert status == 204, status
