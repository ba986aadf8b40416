"""A watch that lasts, by both clients at once.

`EMBERD_ADDR` is the daemon's address and `EMBERD_TEST_DAEMON` its process, whose memory is read.
`EMBERD_TEST_WATCH_S` is how long it lasts, in seconds; without it, as long as the changes take.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import tempfile
import time
import unittest
from typing import Any

import emberd
import emberd.aio

from . import PATIENCE_S

#: Files that are created and removed at least, and before memory is read for the first time.
FILES, FILES_FIRST = 300, 100

#: Pause between files of a watch that lasts for a time, and each thirtieth, which outlasts the
#: comments by which a silent stream shows that it lives; in seconds.
PAUSE_S, PAUSE_LONG_S = 2.0, 40.0

#: By how much the memory of the client and of the daemon may grow, in KiB.
GROWTH_KIB_MAX = 8 << 10


def resident_kib(process: str) -> int:
    with open(f"/proc/{process}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


class Seen:
    """What one client was told: only counts, so that its memory does not grow by them."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.digest = 0

    def add(self, change: Any) -> None:
        kind = change["change"]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.digest = hash((self.digest, kind, change["path"]))


@unittest.skipUnless(sys.platform == "linux", "memory is read from /proc")
class Watch(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        if "EMBERD_ADDR" not in os.environ:
            self.skipTest("EMBERD_ADDR names no daemon")
        self.lasts_s = float(os.environ.get("EMBERD_TEST_WATCH_S", "0"))
        faulthandler.dump_traceback_later(self.lasts_s + PATIENCE_S, exit=True)
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        # Of the double, the guest's files are this machine's.
        self.base = f"{temp.name}/watched"
        self.sandbox = await emberd.aio.Sandbox.create("shell", timeout=self.lasts_s + PATIENCE_S)
        self.addAsyncCleanup(self.sandbox.aclose)
        await self.sandbox.files.make_dir(self.base)

    def resident(self) -> dict[str, int]:
        return {
            "client": resident_kib("self"),
            "daemon": resident_kib(os.environ["EMBERD_TEST_DAEMON"]),
        }

    async def test_a_watch_that_lasts_loses_nothing_and_does_not_grow(self) -> None:
        same = emberd.Sandbox.connect(self.sandbox.id)
        seen, seen_by_sync = Seen(), Seen()
        files, started = 0, time.monotonic()
        async with self.sandbox.files.watch(self.base, recursive=True) as changes:
            with same.files.watch(self.base, recursive=True) as changes_of_sync:

                async def until(kind: str, path: str) -> None:
                    async for change in changes:
                        seen.add(change)
                        if (change["change"], change["path"]) == (kind, path):
                            break

                def until_by_sync(kind: str, path: str) -> None:
                    for change in changes_of_sync:
                        seen_by_sync.add(change)
                        if (change["change"], change["path"]) == (kind, path):
                            break

                while files < FILES or time.monotonic() - started < self.lasts_s:
                    path = f"{self.base}/{files}"
                    for kind in ("created", "removed"):
                        if kind == "created":
                            await self.sandbox.files.write(path, "x")
                        else:
                            await self.sandbox.files.delete(path)
                        await asyncio.gather(
                            until(kind, path), asyncio.to_thread(until_by_sync, kind, path)
                        )
                    files += 1
                    if files == FILES_FIRST:
                        before = self.resident()
                    elif files > FILES_FIRST and self.lasts_s:
                        await asyncio.sleep(PAUSE_LONG_S if files % 30 == 0 else PAUSE_S)
        after, took = self.resident(), time.monotonic() - started
        print(f"{files} files in {took:.0f} s: {seen.kinds}; resident KiB {before}, then {after}")
        self.assertEqual((seen.kinds, seen.digest), (seen_by_sync.kinds, seen_by_sync.digest))
        self.assertEqual((seen.kinds["created"], seen.kinds["removed"]), (files, files))
        self.assertNotIn("overflow", seen.kinds)
        for who, kib in after.items():
            self.assertLess(kib - before[who], GROWTH_KIB_MAX, who)
