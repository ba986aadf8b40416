"""The package as its users have it: typed, built, installed, in a notebook.

Takes the tools of `requirements.txt`, and a daemon at `EMBERD_ADDR` for the notebook.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from typing import Any

PACKAGE = pathlib.Path(__file__).resolve().parent.parent

#: Longest wait for a message of the kernel, in seconds.
KERNEL_S_MAX = 120


def needs(test: unittest.TestCase, *modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        test.skipTest(f"for want of {', '.join(missing)}: scripts/clients.sh tools")


def ran(*command: object, cwd: pathlib.Path = PACKAGE, **variables: str) -> str:
    words = [str(word) for word in command]
    env = {**os.environ, **variables}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


class Package(unittest.TestCase):
    def setUp(self) -> None:
        self.temp = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.temp)

    def test_types_are_strict(self) -> None:
        needs(self, "mypy")
        cache = f"--cache-dir={self.temp}"
        ran(sys.executable, "-m", "mypy", cache)
        # As a user has it: what a stream gives is told apart by its literal fields.
        program = self.temp / "program.py"
        program.write_text(
            "import emberd\n"
            "with emberd.Sandbox.create('code', timeout=600) as sandbox:\n"
            "    reveal_type(sandbox)\n"
            "    reveal_type(sandbox.exec('1').exit_code)\n"
            "    for event in sandbox.spawn(['true']):\n"
            "        if event['event'] == 'exit':\n"
            "            reveal_type(event['exit_code'])\n"
            "async def main() -> None:\n"
            "    async with emberd.aio.Sandbox.create() as other:\n"
            "        reveal_type(other)\n"
            "        reveal_type(await other.files.read('/a'))\n"
        )
        shown = ran(
            sys.executable, "-m", "mypy", "--strict", cache, program, MYPYPATH=str(PACKAGE / "src")
        )
        kinds = [line.split('"')[1] for line in shown.splitlines() if "Revealed type" in line]
        self.assertEqual(
            [kind.replace("builtins.", "") for kind in kinds],
            ["emberd._sync.sandbox.Sandbox", "int", "int", "emberd.aio.sandbox.Sandbox", "bytes"],
        )

    def test_types_are_strict_to_pyright(self) -> None:
        found = [
            at / "python-tools/node_modules/pyright/index.js"
            for at in pathlib.Path(sys.prefix).parents
        ]
        pyright = next((path for path in found if path.exists()), None)
        if pyright is None or shutil.which("node") is None:
            self.skipTest("for want of pyright: scripts/clients.sh tools")
        ran("node", pyright, "--project", PACKAGE, "--pythonpath", sys.executable)

    def test_wheel_and_sdist_are_built_offline_and_installed(self) -> None:
        needs(self, "build", "hatchling")
        source = self.temp / "source"
        shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", ".*", "dist"))
        ran(
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            self.temp,
            cwd=source,
            PIP_NO_INDEX="1",
        )
        [wheel] = self.temp.glob("*.whl")
        [sdist] = self.temp.glob("*.tar.gz")
        self.assertEqual(wheel.name, "emberd-0.1.0-py3-none-any.whl")
        names = zipfile.ZipFile(wheel).namelist()
        for name in ("py.typed", "types.py", "aio/client.py", "_sync/client.py"):
            self.assertIn(f"emberd/{name}", names)
        self.assertFalse([name for name in names if "test" in name])
        with tarfile.open(sdist) as members:
            self.assertIn("emberd-0.1.0/tests/test_http.py", members.getnames())
        ran(sys.executable, "-m", "venv", self.temp / "venv")
        python = self.temp / "venv/bin/python"
        ran(python, "-m", "pip", "--quiet", "install", "--no-index", "--no-deps", wheel)
        shown = ran(
            python,
            "-c",
            "import emberd.aio; print(emberd.__file__, emberd.__version__)",
            cwd=self.temp,
            PYTHONPATH="",
        )
        self.assertIn(f"{self.temp}/venv", shown)
        self.assertIn(" 0.1.0", shown)


class Notebook(unittest.TestCase):
    """A real kernel of Jupyter, whose cells run in a sandbox."""

    def setUp(self) -> None:
        needs(self, "ipykernel", "jupyter_client")
        if "EMBERD_ADDR" not in os.environ:
            self.skipTest("EMBERD_ADDR names no daemon")
        from jupyter_client.manager import KernelManager

        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)
        self.manager = KernelManager(kernel_name="python3")
        env = {**os.environ, "IPYTHONDIR": self.temp.name, "JUPYTER_RUNTIME_DIR": self.temp.name}
        self.manager.start_kernel(env=env)
        self.addCleanup(self.manager.cleanup_resources)
        self.addCleanup(self.manager.shutdown_kernel, now=False)
        self.client = self.manager.client()
        self.client.start_channels()
        self.addCleanup(self.client.stop_channels)
        self.client.wait_for_ready(timeout=KERNEL_S_MAX)

    def cell(self, code: str, during: Any = None) -> list[tuple[str, Any]]:
        """What a cell shows: streams and displayed values, in order."""
        asked = self.client.execute(code)
        shown: list[tuple[str, Any]] = []
        while True:
            message = self.client.get_iopub_msg(timeout=KERNEL_S_MAX)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                shown.append((content["name"], content["text"]))
                if during is not None:
                    during()
                    during = None
            elif kind in ("display_data", "execute_result"):
                shown.append(("data", content["data"]))
            elif kind == "error":
                shown.append(("error", content["ename"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return shown

    def test_cells_run_in_a_sandbox(self) -> None:
        self.assertEqual(self.cell("%load_ext emberd"), [])
        [(kind, data)] = self.cell("%sandbox shell")
        self.assertRegex(data["text/plain"], r"^<emberd\.Sandbox sb_\w+ at http://")
        shown = self.cell("%%sandbox\nx=6; echo six\n")
        self.assertEqual(shown, [("stdout", "six\n")])
        self.assertEqual(self.cell("%%sandbox\necho $((x * 7))"), [("stdout", "42\n")])
        # A context of its own for a language that is named.
        self.assertEqual(self.cell("%%sandbox shell\necho :$x"), [("stdout", ":\n")])
        [(kind, text)] = self.cell("%%sandbox\n(exit 3)")
        self.assertEqual(kind, "stderr")
        self.assertIn("3", text)

        # The button that interrupts, in the midst of a cell.
        shown = self.cell("%%sandbox\necho begun; sleep 600", during=self.manager.interrupt_kernel)
        self.assertEqual(shown[0], ("stdout", "begun\n"))
        self.assertIn(("error", "KeyboardInterrupt"), shown)
        self.assertEqual(self.cell("%%sandbox\necho $x"), [("stdout", "6\n")])

        # A run that is the value of a cell shows itself, and so does what a cell displays.
        self.cell("import emberd; sandbox = emberd._jupyter._current")
        self.assertEqual(self.cell("sandbox.run_code('echo shown')"), [("stdout", "shown\n")])
        shown = self.cell(
            "from emberd import Result\n"
            "Result({'text/plain': '42', 'text/html': '<b>42</b>'}, is_value=True)"
        )
        self.assertEqual(shown, [("data", {"text/plain": "42", "text/html": "<b>42</b>"})])
        self.assertEqual(self.cell("%sandbox a b c")[-1], ("error", "EmberdError"))
        self.assertEqual(self.cell("%sandbox delete"), [])
        self.cell("%sandbox shell")  # Deleted by the end of the kernel.
