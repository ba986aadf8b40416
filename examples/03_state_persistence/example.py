#!/usr/bin/env python3
"""Shows that files and processes outlive an exec, until the sandbox is deleted."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox


def run(path, code):
    status, outcome = call("POST", path + "/exec", {"code": code})
    assert status == 200, (status, outcome)
    assert outcome["exit_code"] == 0, outcome
    return outcome["stdout"]


READ = "import pathlib; p = pathlib.Path('note'); print(p.read_text() if p.exists() else 'none')"

with sandbox("python") as path:
    run(path, "open('note', 'w').write('remember me')")
    assert run(path, READ) == "remember me\n"
    print("a file outlives the exec that wrote it")

    # Every exec is a new interpreter, so variables do not outlive it.
    run(path, "x = 1")
    assert run(path, "print('x' in globals())") == "False\n"
    print("a variable does not")

with sandbox("python") as path:
    assert run(path, READ) == "none\n"
    print("and nothing is left of it in another sandbox")
