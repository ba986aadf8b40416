#!/usr/bin/env python3
"""Shows the errors that a caller can get, and results that are not errors."""

import emberd


def refused(kind, code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        assert error.code == code, error
        print(error.status, error.code, "-", error.message)
    else:
        raise AssertionError(f"{code} was expected")


client = emberd.Client()
unknown = emberd.Sandbox("sb_000000000000", client)
refused(emberd.InvalidRequest, "unknown_pack", emberd.Sandbox.create, "cobol")
refused(emberd.InvalidRequest, "invalid_json", client.create_sandbox, ["not", "an", "object"])
refused(emberd.NotFound, "unknown_sandbox", unknown.exec, "")
refused(emberd.NotFound, "unknown_sandbox", client.delete_sandbox, unknown.id)

with emberd.Sandbox.create("python") as sandbox:
    refused(emberd.InvalidRequest, "invalid_json", sandbox.exec, 42)
    refused(emberd.InvalidRequest, "invalid_request", sandbox.exec, "", timeout=0)
    refused(emberd.NotFound, "not_found", sandbox.files.read, "/no/such/file")

    # An exception in the program is not an API error, but an outcome with its exit code.
    outcome = sandbox.exec("1/0")
    assert (outcome.exit_code, outcome.error) == (1, None), outcome.raw
    try:
        outcome.check()
    except emberd.ProgramFailed as error:
        assert "ZeroDivisionError" in str(error)
    print("exit code 1:", outcome.stderr.splitlines()[-1])

    # A time limit is not one either: `error` says what happened, and the sandbox keeps working.
    outcome = sandbox.exec("while True: pass", timeout=0.5)
    assert (outcome.exit_code, outcome.timed_out) == (-1, True), outcome.raw
    assert outcome.error == "execution timed out", outcome.raw
    print(outcome.error)
    assert sandbox.exec("print('still here')").stdout == "still here\n"
