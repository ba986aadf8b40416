#!/usr/bin/env python3
"""Runs shell scripts in a sandbox: exit codes, both outputs, the usual tools."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox


def run(path, code, **more):
    status, outcome = call("POST", path + "/exec", {"code": code, **more})
    assert status == 200, (status, outcome)
    return outcome


with sandbox("shell") as path:
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
print("deleted")
