"""Writes the programs inside pack.toml files into a directory, each as a file of its language.

    pack_snippets.py DIRECTORY PACK.TOML...

These are the steps after the packages (`customize`, shell), the warm-up, and every program that a
`cat > FILE <<'end'` in the steps writes.
"""

import pathlib
import re
import sys
import tomllib

# Language of a pack's own programs, by the ending of its file of code.
ENDINGS = {"main.py": ".py", "main.js": ".js", "main.sh": ".sh"}
HEREDOC = re.compile(r"^ *cat(?: > (\S+))? <<'end'\n(.*?)^end$", re.MULTILINE | re.DOTALL)
SHELL = "#!/bin/sh\n"


def language(path, text):
    """The ending for a program that a pack puts at `path`; nothing for what cannot be linted."""
    if text.startswith(SHELL):
        return ".sh"
    ending = pathlib.PurePath(path or "").suffix
    return ending if ending in ENDINGS.values() else None


def snippets(pack):
    steps = pack.get("customize")
    if steps is not None:
        yield "customize.sh", SHELL + "set -eu\n" + steps
        for number, (path, text) in enumerate(HEREDOC.findall(steps)):
            if ending := language(path, text):
                yield f"step{number}{ending}", text
    if "warm_up" in pack:
        ending = ENDINGS[pack["file_name"]]
        yield f"warm_up{ending}", (SHELL if ending == ".sh" else "") + pack["warm_up"]


def main():
    directory, *packs = map(pathlib.Path, sys.argv[1:])
    for path in packs:
        pack = tomllib.loads(path.read_text())
        for name, text in snippets(pack):
            directory.joinpath(f"{pack['name']}_{name}").write_text(text)


main()
