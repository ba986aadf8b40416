#!/usr/bin/env python3
"""Shows timeouts, metadata, lists, freezing, and the events of a sandbox."""

import os
import time

import emberd


def listed(client, **query):
    return [found["id"] for found in client.list_sandboxes(**query)["sandboxes"]]


job = {"job": f"example-{os.getpid()}"}
with emberd.Sandbox.create(
    "python", timeout=600, metadata=job, env={"STAGE": "test"}, idle={"freeze_ms": 1000}
) as sandbox:
    print("lives until", time.ctime(sandbox.info()["expires_at_ms"] / 1000))
    assert sandbox.exec("import os; print(os.environ['STAGE'])").check().stdout == "test\n"

    # A touch extends only; a change may shorten.
    sandbox.touch(timeout=1200)
    changed = sandbox.change({"timeout_ms": None, "metadata": {"seen": "yes"}})
    assert "expires_at_ms" not in changed, changed
    assert listed(sandbox.client, metadata=job) == [sandbox.id]
    assert listed(sandbox.client, metadata=job, phase="gone") == []
    print("found by its metadata:", changed["metadata"])

    # Nobody uses it: its guest is stopped. The next request continues it.
    with sandbox.events() as events:
        for event in events:
            print(event["event"])
            if event["event"] == "frozen":
                break
    assert sandbox.exec("print(6*7)").check().stdout == "42\n"
    with sandbox.events(follow=False) as events:
        told = [event["event"] for event in events]
    assert told[:4] == ["created", "running", "frozen", "thawed"], told

# One that nobody deletes ends with its timeout.
with emberd.Client() as client:
    body = {"language_pack": "python", "timeout_ms": 1000, "metadata": job}
    created = client.create_sandbox(body)
    with client.follow_events(sandbox=created["id"]) as events:
        for event in events:
            print(event["event"])
            if event["event"] == "deleted":
                break
    assert listed(client, metadata=job) == []
