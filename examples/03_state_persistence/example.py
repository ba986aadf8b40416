#!/usr/bin/env python3
"""Shows that files and processes outlive an exec, until the sandbox is deleted."""

import emberd

READ = "import pathlib; p = pathlib.Path('note'); print(p.read_text() if p.exists() else 'none')"

with emberd.Sandbox.create("python") as sandbox:
    sandbox.exec("open('note', 'w').write('remember me')").check()
    assert sandbox.exec(READ).check().stdout == "remember me\n"
    print("a file outlives the exec that wrote it")

    # Every exec is a new interpreter, so variables do not outlive it. Those of `run_code` do.
    sandbox.exec("x = 1").check()
    assert sandbox.exec("print('x' in globals())").check().stdout == "False\n"
    print("a variable does not")
    sandbox.run_code("x = 6").check()
    assert sandbox.run_code("x * 7").check().text == "42"
    print("but in a context")

with emberd.Sandbox.create("python") as sandbox:
    assert sandbox.exec(READ).check().stdout == "none\n"
    print("and nothing is left of it in another sandbox")
