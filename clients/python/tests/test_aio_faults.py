"""Answers that are not emberd's, refusals with `Retry-After`, uploads that are refused, slow
servers.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest
from typing import Any
from unittest import mock

import emberd.aio as emberd
from emberd.aio import _session, streams
from emberd.aio._net import sleep
from emberd.errors import (
    ApiError,
    Broken,
    EmberdError,
    InvalidRequest,
    NoSpace,
    NotEmberd,
    TimedOut,
    TooMany,
    Unavailable,
    Unreachable,
)

from .fake import Cut, FakeDaemon, Request, answer, chunked, refusal, sse

_session.RETRY_PAUSE_S = streams.RETRY_PAUSE_S = 0.0

EXIT = {"id": 0, "event": "exit", "exit_code": 0}
CREATED = {"id": "sb_1"}


class Answers(unittest.IsolatedAsyncioTestCase):
    async def test_what_is_not_emberds(self) -> None:
        for sent in (
            answer(b"<html>It works!</html>"),
            answer(b"<html>Bad gateway</html>", status=502),
            answer({"message": "not found"}, status=404),
            answer([1], status=500),
            answer(b"\xff\xfe"),
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ):
            with FakeDaemon(lambda _, sent=sent: sent) as daemon:
                async with emberd.Client(daemon.address) as client:
                    with self.assertRaises(NotEmberd, msg=str(sent)) as caught:
                        await client.get_info()
                    self.assertIn(daemon.address, str(caught.exception))

    async def test_an_answer_that_never_ends(self) -> None:
        def handler(_: Request) -> Any:
            yield b"HTTP/1.1 200 OK\r\n\r\n"
            while True:
                yield b"x" * (1 << 16)

        with (
            mock.patch.object(_session, "ANSWER_BYTES_MAX", 1 << 20),
            FakeDaemon(handler) as daemon,
        ):
            async with emberd.Client(daemon.address) as client:
                with self.assertRaisesRegex(NotEmberd, "has over"):
                    await (await client.get_logs("s"))._answer.all(1 << 20)
                while not daemon.hung_up.is_set():
                    await sleep(0.001)

    async def test_an_error_has_all_that_the_daemon_said(self) -> None:
        body = {"error": "no room", "code": "no_space", "hint": "remove files"}
        sent = answer(body, status=507, headers={"x-request-id": "req_7"})
        with FakeDaemon(lambda _: sent) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(NoSpace) as caught:
                    await client.get_info()
        error = caught.exception
        self.assertEqual((error.code, error.status, error.hint), ("no_space", 507, "remove files"))
        self.assertEqual((error.message, error.request_id), ("no room", "req_7"))

    async def test_a_silent_daemon(self) -> None:
        waiting = emberd.Client
        with FakeDaemon(lambda _: b"HTTP/1.1 200 OK\r\n") as daemon:
            async with waiting(daemon.address, timeout=0.05) as client:
                with self.assertRaisesRegex(TimedOut, "silent for 0.05 s"):
                    await client.get_info()

    async def test_the_key_is_sent_and_a_broken_one_is_not(self) -> None:
        with FakeDaemon(lambda _: answer({})) as daemon:
            with mock.patch.dict(os.environ, EMBERD_API_KEY="of the environment".replace(" ", "-")):
                async with emberd.Client(daemon.address) as client:
                    await client.get_info()
                async with emberd.Client(daemon.address, api_key="mine") as client:
                    await client.get_info()
            sent = [request.headers["authorization"] for request in daemon.requests]
            self.assertEqual(sent, ["Bearer of-the-environment", "Bearer mine"])
            self.assertEqual(daemon.requests[0].headers["host"], daemon.address)
            for key in ("a\n", "a\r\nx: y", "a b", "é"):
                with self.assertRaisesRegex(EmberdError, "hint: look at EMBERD_API_KEY"):
                    emberd.Client(daemon.address, api_key=key)

    async def test_where_the_daemon_is(self) -> None:
        with mock.patch.dict(os.environ, EMBERD_URL="http://a:1", EMBERD_ADDR="b:2"):
            self.assertEqual(emberd.Client().url, "http://a:1")
            self.assertEqual(emberd.Client("unix:/c").url, "unix:/c")
        with mock.patch.dict(os.environ, EMBERD_ADDR="[::1]:2"):
            self.assertEqual(emberd.Client().url, "http://[::1]:2")
        client = emberd.Client("https://vm.example")
        self.assertEqual(client.port_url("sb_1", 80), "https://80-sb-1.vm.example/")
        client = emberd.Client("127.0.0.1:7777")
        self.assertEqual(client.port_url("sb_1", 80), "http://80-sb-1.localhost:7777/")
        with self.assertRaisesRegex(EmberdError, "hint: use the daemon's TCP address"):
            emberd.Sandbox("sb_1", emberd.Client("unix:/c")).url(80)
        with self.assertRaises(Unreachable):
            await emberd.Client("unix:/nonexistent/emberd.sock").get_info()


class Transports(unittest.IsolatedAsyncioTestCase):
    async def test_ipv6(self) -> None:
        try:
            daemon = FakeDaemon(lambda _: answer({"n": 6}), host="::1")
        except OSError:
            return  # A host without IPv6 has no such daemons. `test_http` has the addresses.
        with daemon:
            async with emberd.Client(f"http://{daemon.address}") as client:
                self.assertEqual(await client.get_info(), {"n": 6})
            self.assertEqual(daemon.requests[0].headers["host"], daemon.address)

    @unittest.skipUnless(shutil.which("openssl"), "for want of openssl")
    async def test_https_with_a_certificate_of_ones_own(self) -> None:
        with tempfile.TemporaryDirectory() as temp:
            key, certificate = f"{temp}/key", f"{temp}/certificate"
            make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2".split()
            names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            run = [*make, *names, "-keyout", key, "-out", certificate]
            subprocess.run(run, check=True, capture_output=True)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate, key)
            with FakeDaemon(lambda _: chunked([sse(EXIT)]), tls=tls) as daemon:
                url = f"https://{daemon.address}"
                async with emberd.Client(url, ca_cert=certificate) as client:
                    for _ in range(2):
                        async with await client.follow_process("s", 7) as events:
                            self.assertEqual([event async for event in events], [EXIT])
                with mock.patch.dict(os.environ, EMBERD_CA_CERT=certificate):
                    async with emberd.Client(url) as client:
                        await (await client.follow_process("s", 7)).aclose()
                with self.assertRaisesRegex(Unreachable, "(?i)certificate verify failed"):
                    await emberd.Client(url).get_info()
            with self.assertRaisesRegex(
                EmberdError, "cannot read the certificates in /nonexistent"
            ):
                await emberd.Client(url, ca_cert="/nonexistent").get_info()


class Retries(unittest.IsolatedAsyncioTestCase):
    async def test_idempotent_requests_wait_as_the_daemon_says(self) -> None:
        for status, code, kind in (
            (429, "too_many_bytes", TooMany),
            (503, "sandbox_unreachable", Unavailable),
        ):

            def handler(request: Request, status: int = status, code: str = code) -> Any:
                if request.number % 3 < 2:
                    return refusal(status, code, {"retry-after": "0"})
                return answer(CREATED)

            with FakeDaemon(handler) as daemon:
                async with emberd.Client(daemon.address) as client:
                    self.assertEqual(await client.get_info(), CREATED)
                    self.assertEqual(await client.create_sandbox(), CREATED)
                    keys = {one.headers.get("idempotency-key") for one in daemon.requests[3:]}
                    self.assertEqual((len(daemon.requests), len(keys)), (6, 1))
                    # Code that has run once would run twice.
                    with self.assertRaises(kind):
                        await client.exec_code("s", {"code": ""})
                    self.assertEqual(len(daemon.requests), 7)

    async def test_a_refusal_without_a_time_is_raised_at_once(self) -> None:
        with FakeDaemon(lambda _: refusal(429, "too_many_sandboxes")) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(TooMany):
                    await emberd.Sandbox.create(client=client)
                self.assertEqual(len(daemon.requests), 1)

    async def test_retries_end(self) -> None:
        with FakeDaemon(
            lambda _: refusal(503, "sandbox_unreachable", {"retry-after": "0"})
        ) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(Unavailable) as caught:
                    await client.get_info()
                self.assertEqual((len(daemon.requests), caught.exception.retry_after), (6, 0.0))

    async def test_a_creation_that_is_cut_is_asked_for_with_the_same_key(self) -> None:
        def handler(request: Request) -> Any:
            if request.number < 3:
                raise Cut(reset=request.number == 1)
            return answer(CREATED, status=201, headers={"idempotent-replayed": "true"})

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                sandbox = await emberd.Sandbox.create("shell", timeout=1.5, client=client)
                self.assertEqual(sandbox.id, "sb_1")
            keys = {request.headers["idempotency-key"] for request in daemon.requests}
            self.assertEqual((len(daemon.requests), len(keys)), (4, 1))
            self.assertEqual(
                daemon.requests[3].json(), {"language_pack": "shell", "timeout_ms": 1500}
            )

    async def test_an_exec_that_is_cut_is_not_repeated(self) -> None:
        def handler(request: Request) -> Any:
            if request.number:
                raise Cut()
            return answer({})

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                await client.get_info()
                with self.assertRaises(Broken):
                    await client.exec_code("s", {"code": ""})
                self.assertEqual(len(daemon.requests), 2)

    async def test_a_kept_connection_that_has_ended_is_not_used(self) -> None:
        def handler(request: Request) -> Any:
            yield answer({"n": request.number})
            raise Cut()

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                for number in range(20):
                    self.assertEqual(await client.get_info(), {"n": number})


class Uploads(unittest.IsolatedAsyncioTestCase):
    async def test_a_refusal_in_the_middle_is_what_is_raised(self) -> None:
        def handler(_: Request) -> Any:
            yield refusal(413, "body_too_large", {"connection": "close"})
            raise Cut()

        def endless() -> Any:
            while True:
                yield b"x" * (1 << 16)

        with FakeDaemon(handler, reads_bodies=False) as daemon:
            async with emberd.Client(daemon.address) as client:
                for _ in range(20):
                    with self.assertRaises(InvalidRequest):
                        await client.write_file("s", "/a", endless())

    async def test_content_of_every_kind(self) -> None:
        import io

        def pieces() -> Any:
            yield b"ab"
            yield b""
            yield b"c"

        with FakeDaemon(lambda _: answer({})) as daemon:
            async with emberd.Client(daemon.address) as client:
                files = emberd.Sandbox("s", client).files
                for content in (
                    "abc",
                    b"abc",
                    bytearray(b"abc"),
                    io.BytesIO(b"abc"),
                    pieces(),
                    [b"abc"],
                ):
                    await files.write("/a", content, mode=0o640)
                self.assertEqual({request.body for request in daemon.requests}, {b"abc"})
                self.assertEqual(daemon.requests[0].query, {"path": "/a", "mode": "640"})

    async def test_content_of_another_length_than_announced(self) -> None:
        with FakeDaemon(lambda _: answer({})) as daemon:
            async with emberd.Client(daemon.address) as client:
                for content in ([b"abcd"], [b"ab"]):
                    with self.assertRaisesRegex(EmberdError, "3 bytes that were announced"):
                        await client.write_file("s", "/a", content, length=3)

    async def test_an_error_of_the_content_ends_the_request(self) -> None:
        def failing() -> Any:
            yield b"a"
            raise ZeroDivisionError

        with FakeDaemon(lambda _: answer({})) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(ZeroDivisionError):
                    await client.write_file("s", "/a", failing())
                # The connection was closed within the body: the next one is another.
                self.assertEqual(await client.get_info(), {})


class Tunnels(unittest.IsolatedAsyncioTestCase):
    SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n"

    async def test_bytes_that_come_with_the_head_are_not_lost(self) -> None:
        def handler(_: Request) -> Any:
            yield b"HTTP/1.1 100 Continue\r\n\r\n" + self.SWITCHED + b"early "
            yield b"late"
            raise Cut()

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                async with emberd.Sandbox("s", client).tunnel(80) as tunnel:
                    self.assertEqual(await tunnel.read_all(), b"early late")
                self.assertEqual(daemon.requests[0].headers["upgrade"], "tcp")

    async def test_a_reset_is_not_an_end(self) -> None:
        def handler(_: Request) -> Any:
            yield self.SWITCHED
            raise Cut(reset=True)

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(Broken):
                    async with emberd.Sandbox("s", client).tunnel(80) as tunnel:
                        await tunnel.read_all()

    async def test_bytes_before_a_reset_are_not_lost(self) -> None:
        is_open = threading.Event()

        def handler(_: Request) -> Any:
            yield self.SWITCHED
            is_open.wait(30)
            yield b"last words"
            raise Cut(reset=True)

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                async with emberd.Sandbox("s", client).tunnel(80) as tunnel:
                    is_open.set()
                    while not daemon.hung_up.is_set():
                        await sleep(0.001)
                    for _ in range(10):
                        await sleep(0.001)  # An event loop comes to know of the reset.
                    self.assertEqual(await tunnel.read(), b"last words")
                    with self.assertRaises(Broken):
                        await tunnel.read()

    async def test_a_tunnel_that_is_left_by_an_exception_is_reset(self) -> None:
        with FakeDaemon(lambda _: self.SWITCHED) as daemon:
            async with emberd.Client(daemon.address) as client:
                async with emberd.Sandbox("s", client).tunnel(80):
                    pass
                self.assertFalse(daemon.hung_up.is_set())
                with self.assertRaises(ZeroDivisionError):
                    async with emberd.Sandbox("s", client).tunnel(80):
                        raise ZeroDivisionError
                while not daemon.hung_up.is_set():
                    await sleep(0.001)

    async def test_a_server_that_does_not_switch(self) -> None:
        with FakeDaemon(lambda _: answer({})) as daemon:
            async with emberd.Client(daemon.address) as client:
                with self.assertRaises(NotEmberd):
                    await emberd.Sandbox("s", client).tunnel(80)


class SlowReaders(unittest.IsolatedAsyncioTestCase):
    async def test_a_stream_that_the_daemon_resets_is_read_on(self) -> None:
        count = 2000
        events = [{"id": n, "event": "stdout", "text": "x" * 1000} for n in range(count)]
        end = {"id": count, "event": "exit", "exit_code": 0}

        def handler(request: Request) -> Any:
            start = int(request.query["from"])
            left = [sse(event) for event in [*events, end][start:]]
            yield chunked(left[:700])[:-5]
            if len(left) > 700:
                raise Cut(reset=True)
            yield b"0\r\n\r\n"

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address, timeout=20) as client:
                async with await client.follow_process("s", 7) as stream:
                    numbers = [event["id"] async for event in stream]
        self.assertEqual(numbers, list(range(count + 1)))

    async def test_waiting_for_a_process_has_an_end(self) -> None:
        process = {"pid": 7, "next_event": 1, "argv": [], "tty": False, "started_at_ms": 0}

        def handler(request: Request) -> Any:
            if request.path.endswith("/events"):
                return chunked([b": alive\n\n"])[:-5]
            return answer(process)

        with FakeDaemon(handler) as daemon:
            async with emberd.Client(daemon.address) as client:
                found = await emberd.Sandbox("s", client).process(7)
                with self.assertRaises(TimedOut):
                    await found.wait(timeout=0.05)

    async def test_errors_are_of_one_family(self) -> None:
        for kind in (Broken, NotEmberd, TimedOut, Unreachable, ApiError):
            self.assertTrue(issubclass(kind, EmberdError))
