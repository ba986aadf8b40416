#!/usr/bin/env python3
"""Creates a Python sandbox, runs code in it and deletes it."""

import os

import emberd

with emberd.Sandbox.create("python") as sandbox:
    outcome = sandbox.exec("print(6*7)").check()
    assert outcome.stdout == "42\n", outcome.raw
    print("6*7 is", outcome.stdout.strip(), "in", outcome.duration_ms, "ms")

    # The program has standard input, arguments and environment variables of its own.
    code = "import os, sys; print(sys.stdin.read(), sys.argv[1:], os.environ['COLOUR'])"
    outcome = sandbox.exec(code, stdin="hello", args=["a", "b"], env={"COLOUR": "ember"})
    assert outcome.stdout == "hello ['a', 'b'] ember\n", outcome.raw
    print("it saw:", outcome.stdout.strip())

    # It runs on a kernel of its own.
    code = "print(open('/proc/sys/kernel/osrelease').read(), open('/proc/1/comm').read())"
    release, init = sandbox.exec(code).check().stdout.split()
    print("guest kernel", release, "with PID 1", init, "- this host has", os.uname().release)
print("deleted")
