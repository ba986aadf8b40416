"""What only a process shows: Ctrl-C, threads, forks, cancelled tasks, memory, time to import."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import unittest
import warnings
from typing import Any

import emberd
import emberd.aio

from .fake import FakeDaemon, Request, answer, chunked, sse

CONTEXT: Any = {"id": "c"}
STARTED = {"id": 1, "event": "started", "execution_count": 1}

#: An upload of so many MiB, and how much memory it took at most, in KiB.
UPLOAD = """
import resource, sys
import emberd

mebibytes = int(sys.argv[3])

def zeros():
    piece = bytes(1 << 20)
    for _ in range(mebibytes):
        yield piece

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = emberd.Sandbox("s", emberd.Client(sys.argv[1])).files
if sys.argv[2] == "file":
    with open("/dev/zero", "rb", buffering=0) as file:
        class Zeros:
            left = mebibytes << 20
            def read(self, size):
                piece = file.read(min(size, self.left))
                self.left -= len(piece)
                return piece
        files.write("/a", Zeros(), length=mebibytes << 20)
else:
    files.write("/a", zeros())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def run_until_started(request: Request) -> Any:
    """A run that never ends."""
    yield chunked([sse(STARTED), sse({"id": 2, "event": "stdout", "text": "begun\n"})])[:-5]
    while True:
        yield b"9\r\n: alive\n\n\r\n"


def python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Interrupts(unittest.TestCase):
    def check(self, code: str) -> None:
        with FakeDaemon(run_until_started) as daemon:
            with python(
                f"import sys, asyncio, emberd, emberd.aio\n{code}", daemon.address
            ) as process:
                self.assertEqual(process.stdout and process.stdout.readline(), "begun\n")
                process.send_signal(signal.SIGINT)
                errors = process.stderr.read() if process.stderr else ""
            self.assertIn("KeyboardInterrupt", errors)
            # The daemon sees the connection end, which interrupts the run.
            self.assertTrue(daemon.hung_up.wait(60))

    def test_ctrl_c_ends_the_connection_of_a_run(self) -> None:
        self.check(
            "context = emberd.Context(emberd.Client(sys.argv[1]), 's', {'id': 'c'})\n"
            "try:\n"
            "    context.run('1', on_stdout=lambda text: print(text, end='', flush=True))\n"
            "except KeyboardInterrupt:\n"
            "    print('KeyboardInterrupt', file=sys.stderr, flush=True)\n"
            "    sys.stderr.close()\n"
            "    sys.stdin.read()\n"  # Lives on: it is not the end of the process that hangs up.
        )

    def test_ctrl_c_ends_the_connection_of_an_asynchronous_run(self) -> None:
        self.check(
            "async def main():\n"
            "    context = emberd.aio.Context(emberd.aio.Client(sys.argv[1]), 's', {'id': 'c'})\n"
            "    await context.run('1', on_stdout=lambda text: print(text, end='', flush=True))\n"
            "asyncio.run(main())"
        )


class Cancelled(unittest.IsolatedAsyncioTestCase):
    async def test_a_cancelled_task_ends_its_connection(self) -> None:
        with FakeDaemon(run_until_started) as daemon:
            async with emberd.aio.Client(daemon.address) as client:
                context = emberd.aio.Context(client, "s", CONTEXT)
                begun = asyncio.Event()
                task = asyncio.create_task(context.run("1", on_stdout=lambda _: begun.set()))
                await begun.wait()
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                await asyncio.to_thread(daemon.hung_up.wait, 60)
                self.assertTrue(daemon.hung_up.is_set())

    async def test_a_task_in_time_out_ends_its_connection(self) -> None:
        closed = threading.Event()

        def handler(request: Request) -> Any:
            while not closed.is_set():
                yield b""
                threading.Event().wait(0.005)

        with FakeDaemon(handler) as daemon:
            async with emberd.aio.Client(daemon.address) as client:
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.exec_code("s", {"code": ""}), 0.05)
            closed.set()

    async def test_results_are_told_to_coroutines(self) -> None:
        end = {
            "id": 3,
            "event": "end",
            "execution_count": 1,
            "timed_out": False,
            "truncated": False,
        }
        said = {"id": 2, "event": "stdout", "text": "x"}
        with FakeDaemon(lambda _: chunked([sse(STARTED), sse(said), sse(end)])) as daemon:
            heard = []

            async def hear(text: str) -> None:
                await asyncio.sleep(0)
                heard.append(text)

            async with emberd.aio.Client(daemon.address) as client:
                context = emberd.aio.Context(client, "s", CONTEXT)
                await context.run("1", on_stdout=hear)
        self.assertEqual(heard, ["x"])


class Sharing(unittest.TestCase):
    def test_threads_share_a_client(self) -> None:
        with FakeDaemon(lambda request: answer({"path": request.path})) as daemon:
            client, wrong = emberd.Client(daemon.address), []

            def ask(number: int) -> None:
                for turn in range(50):
                    path = f"/sandboxes/sb_{number}_{turn}"
                    if client.get_sandbox(f"sb_{number}_{turn}") != {"path": path}:
                        wrong.append(path)

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client.close()
        self.assertEqual(wrong, [])
        self.assertEqual(len(daemon.requests), 400)

    @unittest.skipUnless(sys.platform == "linux", "forks beside threads")
    def test_a_forked_process_takes_connections_of_its_own(self) -> None:
        code = (
            "import os, sys, emberd\n"
            "client = emberd.Client(sys.argv[1])\n"
            "client.get_info()\n"
            "child = os.fork()\n"
            "for turn in range(100):\n"
            "    mine = 'child' if child == 0 else 'parent'\n"
            "    id = f'{mine}{turn}'\n"
            "    assert client.get_sandbox(id) == {'path': f'/sandboxes/{id}'}\n"
            "if child == 0:\n"
            "    os._exit(0)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        with FakeDaemon(lambda request: answer({"path": request.path})) as daemon:
            with python(code, daemon.address) as process:
                errors = process.stderr.read() if process.stderr else ""
            self.assertEqual((process.returncode, errors), (0, ""))

    def test_one_client_in_several_event_loops(self) -> None:
        with FakeDaemon(lambda _: answer({"n": 1})) as daemon:
            client = emberd.aio.Client(daemon.address)
            with warnings.catch_warnings():
                # Nobody closed the connections of the loops that have ended.
                warnings.simplefilter("ignore", ResourceWarning)
                for _ in range(3):
                    self.assertEqual(asyncio.run(client.get_info()), {"n": 1})
                del client
                gc.collect()

    def test_the_wrong_kind_of_with_is_told(self) -> None:
        with FakeDaemon(lambda _: answer({"id": "sb_1"})) as daemon:
            sandbox = emberd.Sandbox("sb_1", emberd.Client(daemon.address))

            async def wrong() -> None:
                async with sandbox:  # type: ignore[attr-defined]
                    pass

            with self.assertRaises((AttributeError, TypeError)):
                asyncio.run(wrong())
            with self.assertRaisesRegex(RuntimeError, "no running event loop"):
                emberd.aio.Sandbox("sb_1", emberd.aio.Client(daemon.address)).delete().send(None)


class Resources(unittest.TestCase):
    def check_upload(self, kind: str, mebibytes: int) -> None:
        with (
            FakeDaemon(lambda _: answer({})) as daemon,
            python(UPLOAD, daemon.address, kind, str(mebibytes)) as process,
        ):
            printed, errors = process.communicate()
            self.assertEqual(process.returncode, 0, errors)
            self.assertEqual(daemon.requests[0].body_bytes, mebibytes << 20)
            self.assertLess(int(printed), 24 << 10)

    def test_an_upload_of_a_gibibyte_takes_no_memory(self) -> None:
        self.check_upload("pieces", 1024)

    def test_an_upload_of_a_file_takes_no_memory(self) -> None:
        self.check_upload("file", 256)

    def test_the_import_drags_nothing_heavy_in(self) -> None:
        heavy = (
            "asyncio",
            "ssl",
            "tarfile",
            "tempfile",
            "dataclasses",
            "inspect",
            "http.client",
            "emberd.types",
        )
        code = f"import sys, emberd; print([name for name in {heavy} if name in sys.modules])"
        # -I: nothing of the user's site, which may import all of it.
        run = [sys.executable, "-S", "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, env={**os.environ})
        self.assertEqual((done.stdout.strip(), done.stderr), ("[]", ""))
