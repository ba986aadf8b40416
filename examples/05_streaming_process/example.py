#!/usr/bin/env python3
"""Starts a process, follows its output, writes to its input, and reconnects after a break."""

import emberd

CODE = """
import sys
print('ready', flush=True)
for line in sys.stdin: print(line.upper(), end='', flush=True)
"""

with emberd.Sandbox.create("python") as sandbox, sandbox.spawn(code=CODE) as process:
    with process.events() as events:
        for event in events:
            print(event)
            if event.get("text") == "ready\n":
                break  # The process keeps running without a client.

    process.stdin.write("ember\n")
    process.stdin.write("daemon\n")
    process.stdin.end()

    # Another client could go on: with the process id, and the number of the last event.
    same, said = sandbox.process(process.pid), ""
    for event in same.events(events.last_id + 1):
        print(event)
        if event["event"] == "stdout":
            said += event["text"]
    assert said == "EMBER\nDAEMON\n", said
    assert (event["event"], event["exit_code"]) == ("exit", 0), event
print("deleted")
