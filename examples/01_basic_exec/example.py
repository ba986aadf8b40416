#!/usr/bin/env python3
"""Creates a Python sandbox, runs code in it and deletes it."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox

with sandbox("python") as path:
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
print("deleted")
