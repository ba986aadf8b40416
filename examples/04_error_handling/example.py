#!/usr/bin/env python3
"""Shows the errors that a caller can get, and results that are not errors."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox


def refused(expected_status, expected_code, answer):
    status, body = answer
    assert (status, body["code"]) == (expected_status, expected_code), answer
    print(status, body["code"], "-", body["error"])


refused(400, "unknown_pack", call("POST", "/sandboxes", {"language_pack": "cobol"}))
refused(400, "invalid_json", call("POST", "/sandboxes", ["not", "an", "object"]))
refused(404, "unknown_sandbox", call("POST", "/sandboxes/sb_000000000000/exec", {"code": ""}))
refused(404, "unknown_route", call("GET", "/no-such-route"))
refused(405, "method_not_allowed", call("PUT", "/sandboxes"))

with sandbox("python") as path:
    refused(400, "invalid_json", call("POST", path + "/exec", {"code": 42}))
    refused(400, "invalid_request", call("POST", path + "/exec", {"code": "", "timeout_ms": 0}))

    # An exception in the program is not an API error: the answer is a 200 with its exit code.
    status, outcome = call("POST", path + "/exec", {"code": "1/0"})
    assert (status, outcome["exit_code"], outcome["error"]) == (200, 1, None), outcome
    assert "ZeroDivisionError" in outcome["stderr"], outcome
    print("200, exit code 1:", outcome["stderr"].splitlines()[-1])

    # A time limit is not one either: `error` says what happened, and the sandbox keeps working.
    endless = {"code": "while True: pass", "timeout_ms": 500}
    status, outcome = call("POST", path + "/exec", endless)
    assert (status, outcome["exit_code"], outcome["timed_out"]) == (200, -1, True), outcome
    assert outcome["error"] == "execution timed out", outcome
    print("200,", outcome["error"])
    status, outcome = call("POST", path + "/exec", {"code": "print('still here')"})
    assert outcome["stdout"] == "still here\n", outcome
refused(404, "unknown_sandbox", call("DELETE", path))
