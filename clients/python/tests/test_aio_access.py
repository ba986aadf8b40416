"""The client against a daemon with keys, whose guests have the pack `shell`.

`EMBERD_ADDR` is the daemon's address and `EMBERD_API_KEY` the key of an administrator.
`EMBERD_TEST_OTHER_KEY` is that of a user whose sandboxes may have 512 MiB.
"""

from __future__ import annotations

import http.client
import os
import unittest
import urllib.parse

import emberd.aio as emberd
from emberd.errors import NotFound, TooMany, Unauthorized


def status_of(url: str) -> tuple[int, str]:
    """Status and cookie of the answer to a browser that opens the URL."""
    parts = urllib.parse.urlsplit(url)
    # The name is below `localhost`, which not every resolver knows.
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80)
    try:
        headers = {"Host": parts.netloc}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("set-cookie", "")
    finally:
        connection.close()


class Access(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        if "EMBERD_TEST_OTHER_KEY" not in os.environ:
            self.skipTest("EMBERD_TEST_OTHER_KEY has no key")
        self.client = emberd.Client(timeout=300)
        self.addAsyncCleanup(self.client.aclose)
        self.sandbox = await emberd.Sandbox.create("shell", client=self.client)
        self.addAsyncCleanup(self.sandbox.aclose)

    def other(self) -> emberd.Client:
        return emberd.Client(api_key=os.environ["EMBERD_TEST_OTHER_KEY"], timeout=300)

    async def test_a_key_has_its_own_sandboxes_only(self) -> None:
        async with self.other() as other:
            with self.assertRaises(NotFound) as caught:
                await emberd.Sandbox.connect(self.sandbox.id, client=other)
            self.assertEqual(caught.exception.code, "unknown_sandbox")
            self.assertEqual((await other.list_sandboxes())["sandboxes"], [])
            async with await emberd.Sandbox.create("shell", client=other) as own:
                listed = [one["id"] for one in (await other.list_sandboxes())["sandboxes"]]
                self.assertEqual(listed, [own.id])
                # The administrator has both.
                listed = [one["id"] for one in (await self.client.list_sandboxes())["sandboxes"]]
                self.assertLessEqual({self.sandbox.id, own.id}, set(listed))

    async def test_a_limit_is_named_and_shown_in_the_usage(self) -> None:
        async with self.other() as other:
            async with await emberd.Sandbox.create("shell", client=other):
                # More than it may have of all: the client does not try again.
                with self.assertRaises(TooMany) as caught:
                    await emberd.Sandbox.create("shell", memory_mib=1024, client=other)
                self.assertEqual(caught.exception.code, "quota_exceeded")
                self.assertEqual(caught.exception.limit, {"name": "memory_mib", "value": 512})
                (mine,) = (await other.get_usage())["callers"]
                self.assertEqual(mine["used"]["sandboxes"], 1)
                self.assertEqual(mine["limits"]["memory_mib"], 512)
                everybody = (await self.client.get_usage(all=True))["callers"]
                self.assertIn(mine["owner"], [one["owner"] for one in everybody])
                self.assertGreater(len(everybody), 1)

    async def test_a_key_that_is_none_is_refused(self) -> None:
        for wrong in ("emb_00000000_" + "0" * 32, "nonsense"):
            async with emberd.Client(api_key=wrong) as stranger:
                with self.assertRaises(Unauthorized) as caught:
                    await stranger.list_sandboxes()
                self.assertEqual(caught.exception.code, "unauthenticated")
                self.assertNotIn(wrong, str(caught.exception))

    async def test_a_signed_url_opens_a_port_until_it_is_revoked(self) -> None:
        url = await self.sandbox.signed_url(8000, expires=60)
        self.assertIn(f"//8000-{self.sandbox.id.replace('_', '-')}.", url)
        status, cookie = status_of(url)
        self.assertEqual((status, "emberd_port=" in cookie), (303, True))
        unsigned = url.partition("?")[0]
        self.assertEqual(status_of(unsigned)[0], 401)
        await self.sandbox.revoke_urls()
        self.assertEqual(status_of(url)[0], 401)
        based = await self.sandbox.signed_url(8000, base="https://sandboxes.example")
        self.assertTrue(based.startswith("https://8000-"), "it begins as it was asked to")
        async with self.other() as other:
            with self.assertRaises(NotFound):
                await other.create_url(self.sandbox.id, {"port": 8000})
