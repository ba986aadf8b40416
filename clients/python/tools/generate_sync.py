"""Writes the synchronous package `_sync` from the asynchronous `aio`.

    generate_sync.py          writes the files
    generate_sync.py --check  fails where a file is not what it would write

Words are replaced, and nothing else: a line keeps its number. `_net.py` has what differs for real,
and is written by hand on both sides.
"""

import pathlib
import re
import sys

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "src/emberd"
BY_HAND = "_net.py"
MARK = "# Written from {} by tools/generate_sync.py: change that one.\n"

WORDS = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync(Iterator|Iterable)\b", r"\1"),
    (r"`async with`", "`with`"),
    (r"by the end of its task", "by an exception"),
    (r"\bor by the tasks of one event loop\b", "but not by forked processes at once"),
]


def translated(path):
    text = path.read_text()
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return MARK.format(path.relative_to(PACKAGE)) + text


def main():
    written = {}
    for path in sorted((PACKAGE / "aio").glob("*.py")):
        if path.name != BY_HAND:
            written[PACKAGE / "_sync" / path.name] = translated(path)
    stale = {path for path in (PACKAGE / "_sync").glob("*.py") if path.name != BY_HAND}
    stale -= written.keys()
    changed = [
        path for path, text in written.items() if not path.exists() or path.read_text() != text
    ]
    if sys.argv[1:] == ["--check"]:
        if changed or stale:
            names = ", ".join(sorted(path.name for path in {*changed, *stale}))
            sys.exit(f"error: {names} in _sync are not of aio\nhint: run {__file__}")
        return
    for path in stale:
        path.unlink()
    for path in changed:
        path.write_text(written[path])


if __name__ == "__main__":
    main()
