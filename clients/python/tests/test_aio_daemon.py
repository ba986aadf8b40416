"""The client against a daemon, whose guests are processes of this machine where it is over the
double.

`EMBERD_ADDR` is the daemon's address. The guests have the packs `python` and `shell`.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import unittest
from typing import Any

import emberd.aio as emberd
from emberd.errors import (
    AlreadyExists,
    Broken,
    EmberdError,
    InvalidRequest,
    NotFound,
    PortClosed,
    ProgramFailed,
    TimedOut,
    Unreachable,
)

#: A server of one connection: answers what it read, in capitals, once its input has ended.
SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
read = b""
while piece := connection.recv(65536):
    read += piece
connection.sendall(read.upper())
connection.close()
"""


class WithSandbox(unittest.IsolatedAsyncioTestCase):
    pack = "shell"

    async def asyncSetUp(self) -> None:
        if "EMBERD_ADDR" not in os.environ:
            self.skipTest("EMBERD_ADDR names no daemon")
        self.client = emberd.Client(timeout=300)
        self.sandbox = await emberd.Sandbox.create(self.pack, client=self.client)
        self.addAsyncCleanup(self.sandbox.aclose)


class Life(WithSandbox):
    async def test_options_of_a_creation(self) -> None:
        made = emberd.Sandbox.create(
            "shell",
            timeout=600,
            env={"STAGE": "test"},
            metadata={"user": "ada"},
            memory_mib=128,
            idle={"freeze_ms": None},
            auto_resume=False,
            idempotency_key=os.urandom(8).hex(),
            client=self.client,
        )
        async with made as sandbox:
            info = await sandbox.info()
            self.assertEqual(info["metadata"], {"user": "ada"})
            self.assertEqual((info["env"], info["auto_resume"]), (["STAGE"], False))
            self.assertEqual(info["resources"]["memory_mib"], 128)
            self.assertIn("expires_at_ms", info)
            self.assertEqual((await sandbox.exec("echo $STAGE")).stdout, "test\n")
            listed = await self.client.list_sandboxes(metadata={"user": "ada"}, phase=["running"])
            self.assertEqual([one["id"] for one in listed["sandboxes"]], [sandbox.id])
        with self.assertRaises(NotFound):
            await sandbox.info()

    async def test_changes_and_touches(self) -> None:
        changed = await self.sandbox.change({"metadata": {"a": "b"}, "timeout_ms": 60_000})
        self.assertEqual(changed["metadata"], {"a": "b"})
        touched = await self.sandbox.touch(3600)
        self.assertGreater(touched["expires_at_ms"], changed["expires_at_ms"] + 3_000_000)

    async def test_the_same_key_makes_one_sandbox(self) -> None:
        key = os.urandom(8).hex()
        create = emberd.Sandbox.create
        one = await create("shell", idempotency_key=key, client=self.client)
        same = await create("shell", idempotency_key=key, client=self.client)
        self.assertEqual(one.id, same.id)
        with self.assertRaisesRegex(InvalidRequest, "key_reused"):
            await create("python", idempotency_key=key, client=self.client)
        await one.delete()
        await same.delete()

    async def test_a_connected_sandbox_stays(self) -> None:
        async with emberd.Sandbox.connect(self.sandbox.id, client=self.client) as same:
            await same.exec("true")
        await self.sandbox.info()
        with self.assertRaises(NotFound):
            await emberd.Sandbox.connect("sb_000000000000", client=self.client)

    async def test_the_unix_socket(self) -> None:
        if "EMBERD_TEST_SOCKET" not in os.environ:
            self.skipTest("EMBERD_TEST_SOCKET names no socket")
        async with emberd.Client(os.environ["EMBERD_TEST_SOCKET"]) as client:
            same = await emberd.Sandbox.connect(self.sandbox.id, client=client)
            self.assertEqual((await same.exec("echo hi")).stdout, "hi\n")

    async def test_events_of_the_daemon(self) -> None:
        async with self.sandbox.events(follow=False) as events:
            kinds = [event["event"] async for event in events]
        self.assertEqual(kinds, ["created", "running"])
        async with self.sandbox.events() as following:
            await self.sandbox.delete()
            async for event in following:
                if event["event"] == "deleted":
                    break
        self.assertEqual(event["sandbox"], self.sandbox.id)

    async def test_the_daemon_itself(self) -> None:
        self.assertEqual(await self.client.check_health(), {"status": "ok"})
        self.assertIn("shell", (await self.client.get_info())["packs"])
        self.assertIn("emberd_", await self.client.get_daemon_metrics())
        self.assertEqual((await self.client.get_openapi())["info"]["title"], "emberd")
        self.assertIn("templates", await self.client.list_templates())
        names = [one["name"] for one in (await self.client.list_egress_profiles())["profiles"]]
        self.assertIn("github", names)
        self.assertGreater((await self.sandbox.metrics())["memory_total_bytes"], 0)
        self.assertIsInstance(await self.sandbox.logs(tail=3), str)


class Programs(WithSandbox):
    async def test_an_exec(self) -> None:
        outcome = await self.sandbox.exec("cat; echo err >&2; exit 3", stdin="in")
        self.assertEqual((outcome.stdout, outcome.stderr, outcome.exit_code), ("in", "err\n", 3))
        with self.assertRaisesRegex(ProgramFailed, "exited with 3\nerr"):
            outcome.check()
        outcome = await self.sandbox.exec(
            "cat; printf '\\377'", stdin=b"\0\xfe", args=["a"], cwd="/"
        )
        self.assertEqual(outcome.check().stdout_bytes, b"\0\xfe\xff")
        outcome = await self.sandbox.exec("while :; do :; done", timeout=0.3)
        self.assertEqual((outcome.timed_out, outcome.ok), (True, False))
        with self.assertRaisesRegex(ProgramFailed, "execution timed out"):
            outcome.check()

    async def test_bad_requests_say_what_is_wrong(self) -> None:
        with self.assertRaises(InvalidRequest) as caught:
            await self.sandbox.exec("true", timeout=0)
        self.assertEqual((caught.exception.status, caught.exception.code), (400, "invalid_request"))
        self.assertTrue(caught.exception.request_id)

    async def test_a_body_that_is_too_large(self) -> None:
        with self.assertRaises(InvalidRequest) as caught:
            await self.sandbox.exec("#" * (65 << 20))
        self.assertEqual((caught.exception.status, caught.exception.code), (413, "body_too_large"))
        self.assertEqual((await self.sandbox.exec("echo on")).stdout, "on\n")

    async def test_a_process(self) -> None:
        argv = [
            "sh",
            "-c",
            "read line; echo got $line; trap 'exit 5' TERM; echo ready; "
            "while :; do sleep 0.01; done",
        ]
        async with self.sandbox.spawn(argv, env={"A": "b"}) as process:
            await process.stdin.write("one\n")
            texts = ""
            async for event in process:
                texts += event.get("text", "")
                if texts.endswith("ready\n"):
                    break
            self.assertEqual(texts, "got one\nready\n")
            with self.assertRaises(TimedOut):
                await process.wait(timeout=0.05)
            listed = [one.pid for one in await self.sandbox.processes()]
            self.assertEqual(listed, [process.pid])
            same = await self.sandbox.process(process.pid)
            await same.signal("TERM")
            self.assertEqual((await process.wait(timeout=60)).exit_code, 5)
            self.assertEqual((await process.wait()).exit_code, 5)
            kinds = [event["event"] async for event in process]
            self.assertEqual(kinds[-1], "exit")
            with self.assertRaisesRegex(InvalidRequest, "SIGNONSENSE"):
                await process.signal("NONSENSE")
        self.assertEqual(await self.sandbox.processes(), [])

    async def test_output_that_is_not_kept_is_a_gap(self) -> None:
        count = 3 << 20
        async with self.sandbox.spawn(
            ["sh", "-c", f"head -c {count} /dev/zero | tr '\\0' x"]
        ) as process:
            self.assertEqual((await process.wait(timeout=120)).exit_code, 0)
            async with process.events() as events:
                seen = [event async for event in events]
            kinds = {event["event"] for event in seen}
            self.assertTrue({"gap", "stdout", "exit"} <= kinds, kinds)
            numbers = [event["id"] for event in seen]
            self.assertEqual(numbers, sorted(set(numbers)))

    async def test_a_terminal(self) -> None:
        async with self.sandbox.terminal(["sh"], cols=91, rows=17) as terminal:
            await terminal.write("stty size; echo e''nd\n")
            text = ""
            async for event in terminal:
                text += event.get("text", "")
                if "end\r\n" in text:
                    break
            self.assertIn("17 91\r\n", text)
            await terminal.resize(50, 20)
            await terminal.write("stty size; exit 4\n")
            async for event in terminal:
                text += event.get("text", "")
            self.assertIn("20 50\r\n", text)
            self.assertEqual(event["exit_code"], 4)


class Runs(WithSandbox):
    async def test_variables_stay(self) -> None:
        heard: list[str] = []
        run = await self.sandbox.run_code("x=6; echo six; echo no >&2", on_stdout=heard.append)
        self.assertEqual((run.stdout, run.stderr, run.ok), ("six\n", "no\n", True))
        self.assertEqual("".join(heard), "six\n")
        run = await self.sandbox.run_code("echo $((x * 7)); (exit 3)")
        self.assertEqual((run.stdout, run.execution_count), ("42\n", 2))
        self.assertEqual((run.error.name, run.ok), ("ExitCode", False))
        with self.assertRaises(ProgramFailed):
            run.check()

    async def test_a_context(self) -> None:
        async with self.sandbox.contexts.open("shell", env={"A": "b"}, cwd="/") as context:
            self.assertEqual((await context.run("echo $A; pwd")).stdout, "b\n/\n")
            run = await context.run("sleep 600", timeout=0.2)
            self.assertEqual((run.timed_out, run.ok), (True, False))
            async with context.stream("echo a; sleep 600") as events:
                async for event in events:
                    if event["event"] == "stdout":
                        await context.interrupt()
                self.assertEqual(event["event"], "end")
            self.assertEqual([one.id for one in await self.sandbox.contexts.list()], [context.id])
            found = await self.sandbox.contexts.get(context.id)
            await found.restart()
            self.assertEqual((await context.run("echo $?")).execution_count, 1)
            async with context.events() as events:
                async for event in events:
                    self.assertEqual(event["event"], "started")
                    break
        self.assertEqual(await self.sandbox.contexts.list(), [])
        with self.assertRaises(NotFound):
            await self.sandbox.contexts.get(context.id)

    async def test_leaving_the_events_interrupts_the_run(self) -> None:
        context = await self.sandbox.contexts.open()
        async with context.stream("echo begun; sleep 600") as events:
            async for event in events:
                if event["event"] == "stdout":
                    break
        # Answers when the run before it has ended.
        self.assertEqual((await context.run("echo next")).stdout, "next\n")


class FilesOfASandbox(WithSandbox):
    async def asyncSetUp(self) -> None:
        await super().asyncSetUp()
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.local = pathlib.Path(temp.name, "local")
        self.local.mkdir()
        # Of the double, the guest's files are this machine's.
        self.base = f"{temp.name}/guest"

    async def test_content(self) -> None:
        files, path = self.sandbox.files, f"{self.base}/deep/a b+é"
        entry = await files.write(path, "content", mode=0o600)
        self.assertEqual((entry["size"], entry["mode"]), (7, 0o600))
        self.assertEqual(await files.read(path), b"content")
        self.assertEqual(await files.read_text(path), "content")
        self.assertEqual(await files.read(path, offset=2, length=3), b"nte")
        self.assertEqual((await files.stat(path))["type"], "file")
        self.assertTrue(await files.exists(path))
        await files.move(path, f"{self.base}/moved")
        self.assertFalse(await files.exists(path))
        await files.make_dir(f"{self.base}/dir")
        with self.assertRaises(AlreadyExists):
            await files.make_dir(f"{self.base}/dir")
        names = [os.path.basename(one["path"]) for one in await files.list(self.base)]
        self.assertEqual(names, ["deep", "dir", "moved"])
        self.assertFalse((await files.tree(self.base))["cut"])
        await files.delete(self.base)
        with self.assertRaises(NotFound):
            await files.read(f"{self.base}/moved")

    async def test_names_of_any_bytes(self) -> None:
        path = os.fsencode(self.base) + b"/\xff\xfe"
        await self.sandbox.files.write(path, b"x")
        self.assertEqual(await self.sandbox.files.read(path), b"x")
        listed = await self.sandbox.files.list(self.base)
        self.assertIn("base64", listed[0]["path"])

    async def test_a_directory_there_and_back(self) -> None:
        (self.local / "sub/empty").mkdir(parents=True)
        (self.local / "sub/run.sh").write_text("#!/bin/sh\necho ran\n")
        (self.local / "sub/run.sh").chmod(0o755)
        (self.local / "big").write_bytes(os.urandom(1 << 20))
        (self.local / "link").symlink_to("sub/run.sh")
        await self.sandbox.files.upload(self.local, f"{self.base}/up")
        self.assertEqual((await self.sandbox.exec(f"'{self.base}/up/link'")).stdout, "ran\n")
        back = self.local.parent / "back"
        await self.sandbox.files.download(f"{self.base}/up", back)
        self.assertEqual((back / "big").read_bytes(), (self.local / "big").read_bytes())
        self.assertEqual(os.readlink(back / "link"), "sub/run.sh")
        self.assertTrue(os.access(back / "sub/run.sh", os.X_OK) and (back / "sub/empty").is_dir())

    async def test_a_file_there_and_back(self) -> None:
        (self.local / "one").write_bytes(b"1" * 100_000)
        await self.sandbox.files.upload(self.local / "one", f"{self.base}/one")
        await self.sandbox.files.download(f"{self.base}/one", self.local / "two")
        self.assertEqual((self.local / "two").read_bytes(), b"1" * 100_000)
        with self.assertRaises(NotFound):
            await self.sandbox.files.download(f"{self.base}/none", self.local / "three")
        self.assertEqual(sorted(os.listdir(self.local)), ["one", "two"])

    async def test_an_archive_that_leads_outside_is_refused(self) -> None:
        await self.sandbox.files.make_dir(f"{self.base}/evil")
        await self.sandbox.exec(f"ln -s /etc/passwd '{self.base}/evil/link'")
        with self.assertRaisesRegex(EmberdError, "leads outside"):
            await self.sandbox.files.download(f"{self.base}/evil", self.local / "out")

    async def test_changes(self) -> None:
        await self.sandbox.files.make_dir(self.base)
        async with self.sandbox.files.watch(self.base, recursive=True) as changes:
            await self.sandbox.files.write(f"{self.base}/new", "x")
            async for change in changes:
                if change["path"] == f"{self.base}/new":
                    break
        self.assertEqual(change["change"], "created")


class Ports(WithSandbox):
    pack = "python"

    async def serve(self) -> Any:
        process = await self.sandbox.spawn(code=SERVER)
        self.addAsyncCleanup(process.aclose)
        async for event in process:
            if event["event"] == "stdout":
                return int(event["text"])

    async def test_a_tunnel_whose_ends_close_one_by_one(self) -> None:
        port = await self.serve()
        async with self.sandbox.tunnel(port) as tunnel:
            await tunnel.write(b"half ")
            await tunnel.write(b"closed")
            tunnel.end()
            self.assertEqual(await tunnel.read_all(), b"HALF CLOSED")

    async def test_waiting_for_a_port(self) -> None:
        port = await self.serve()
        await self.sandbox.wait_port(port, timeout=60)
        with self.assertRaisesRegex(TimedOut, "nothing listens on port 1 "):
            await self.sandbox.wait_port(1, timeout=0.2)
        with self.assertRaises(PortClosed):
            await self.sandbox.tunnel(1)

    async def test_a_tunnel_whose_sandbox_ends_is_broken(self) -> None:
        port = await self.serve()
        async with self.sandbox.tunnel(port) as tunnel:
            await tunnel.write(b"some")
            await self.sandbox.delete()
            # Not an end: the server did not say that this was all.
            with self.assertRaises(Broken):
                await tunnel.read_all()

    async def test_http_by_headers(self) -> None:
        headers = self.sandbox.port_headers(80)
        self.assertEqual(headers, {"x-emberd-sandbox": self.sandbox.id, "x-emberd-port": "80"})
        name = self.sandbox.id.replace("_", "-")
        self.assertRegex(self.sandbox.url(80), rf"^http://80-{name}\.localhost:\d+/$")


class Network(WithSandbox):
    """Guests of the double have no network of their own, so nothing is allowed here."""

    async def test_a_policy(self) -> None:
        async with emberd.Sandbox.create(
            "shell", deny=["b.example"], client=self.client
        ) as sandbox:
            self.assertEqual((await sandbox.egress.show())["policy"]["deny"], ["b.example"])
            changed = await sandbox.egress.deny("*.c.example:443")
            self.assertEqual(len(changed["policy"]["deny"]), 2)
            denied = await sandbox.egress.check("b.example")
            self.assertEqual((denied["decision"], denied["reason"]), ("denied", "denied_by_rule"))
            replaced = await sandbox.egress.replace({"log": "denied"})
            self.assertEqual(replaced["policy"].get("deny", []), [])
            self.assertEqual((await sandbox.egress.check("b.example", 80))["reason"], "no_rule")
            kinds = {one["kind"] for one in (await sandbox.egress.log(limit=5))["records"]}
            self.assertEqual(kinds, {"policy"})
            async with sandbox.egress.follow() as records:
                async for record in records:
                    self.assertEqual((record["seq"], record["kind"]), (1, "policy"))
                    break


class Clients(unittest.IsolatedAsyncioTestCase):
    async def test_nobody_listens(self) -> None:
        with self.assertRaises(Unreachable):
            await emberd.Sandbox.create(client=emberd.Client("127.0.0.1:1"))
