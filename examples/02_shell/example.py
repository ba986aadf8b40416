#!/usr/bin/env python3
"""Runs shell scripts in a sandbox: exit codes, both outputs, the usual tools."""

import emberd

with emberd.Sandbox.create("shell") as sandbox:
    # A program that fails is an outcome with its exit code, not an exception.
    outcome = sandbox.exec("echo out; echo err >&2; exit 3")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n"), outcome.raw
    print("exit code 3, outputs apart")

    # A program killed by signal n has the exit code 128 + n, as in shells.
    outcome = sandbox.exec("kill -9 $$")
    assert (outcome.exit_code, outcome.signal) == (137, 9), outcome.raw
    print("killed by signal", outcome.signal)

    count = "tr ' ' '\\n' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2, $1 }'"
    outcome = sandbox.exec(count, stdin="the cat the dog the end").check()
    assert outcome.stdout == "the 3\n", outcome.raw
    print("most frequent word:", outcome.stdout.strip())
print("deleted")
