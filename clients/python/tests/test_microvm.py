"""The package on real microVMs: what the documents show, and what only a real guest has.

`EMBERD_ADDR` is a daemon with the pack `python`.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import os
import pathlib
import re
import unittest

import emberd

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]

#: Pages whose Python blocks are run, one after the other, as the cells of a notebook.
PAGES = ("README.md", "clients/python/README.md", "docs/src/guides/python.md")


def blocks(page: str) -> list[str]:
    text = (REPOSITORY / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Documents(unittest.TestCase):
    def test_what_the_documents_show_works(self) -> None:
        for page in PAGES:
            names: dict[str, object] = {}
            cells = blocks(page)
            self.assertTrue(cells, page)
            for number, cell in enumerate(cells):
                printed = io.StringIO()
                with self.subTest(page=page, number=number), contextlib.redirect_stdout(printed):
                    exec(compile(cell, f"{page}[{number}]", "exec"), names)
                if number == 0:
                    # The quick start: three lines, which say 42.
                    self.assertEqual(
                        (len(cell.splitlines()), printed.getvalue().strip()), (3, "42")
                    )
            with emberd.Client() as client:
                self.assertEqual(client.list_sandboxes()["sandboxes"], [], page)
            # Of clients that a page makes and nobody closes.
            names.clear()
            gc.collect()


class Guests(unittest.TestCase):
    def test_results_of_a_notebook(self) -> None:
        with emberd.Sandbox.create("python", timeout=3600) as sandbox:
            heard: list[object] = []
            run = sandbox.run_code(
                "class Shown:\n"
                "    def _repr_html_(self): return '<b>hi</b>'\n"
                "    def _repr_png_(self): return b'\\x89PNG'\n"
                "display(Shown()); print('said'); 6 * 7",
                on_result=heard.append,
            )
            self.assertEqual((run.stdout, run.text, run.images), ("said\n", "42", [b"\x89PNG"]))
            self.assertEqual(run.results[0].data["text/html"], "<b>hi</b>")
            self.assertEqual(base64.b64decode(run.results[0].data["image/png"]), b"\x89PNG")
            self.assertEqual(heard, run.results)
            failed = sandbox.run_code("1/0")
            self.assertEqual(failed.error and failed.error.name, "ZeroDivisionError")
            with self.assertRaisesRegex(emberd.ProgramFailed, "ZeroDivisionError"):
                failed.check()
            interrupted = sandbox.run_code("while True: pass", timeout=1)
            self.assertTrue(interrupted.timed_out)
            self.assertEqual(sandbox.run_code("echo $0", language="shell").ok, True)

    def test_what_a_guest_may_reach(self) -> None:
        try:
            made = emberd.Sandbox.create(
                profiles=["github"], allow=["a.example"], deny=["b.example"]
            )
        except emberd.Conflict as error:
            self.skipTest(f"no network access here: {error}")
        with made as sandbox:
            policy = sandbox.egress.show()["policy"]
            self.assertEqual((policy["profiles"], policy["allow"]), (["github"], ["a.example"]))
            self.assertEqual(len(sandbox.egress.allow("c.example:443")["policy"]["allow"]), 2)
            outcome = sandbox.exec("import socket; socket.create_connection(('d.example', 443))")
            self.assertEqual(outcome.egress_denied[0]["host"], "d.example")
            self.assertIn("d.example", outcome.hint or "")
            with sandbox.egress.follow(decision="denied") as records:
                record = next(records)
                self.assertEqual(
                    (record.get("host"), record.get("reason")), ("d.example", "no_rule")
                )

    def test_files_of_a_guest(self) -> None:
        with emberd.Sandbox.create("python", timeout=3600) as sandbox:
            content = os.urandom(3 << 20)
            sandbox.files.write("/root/deep/random", content)
            self.assertEqual(sandbox.files.read("/root/deep/random"), content)
            with sandbox.files.watch("/root") as changes:
                sandbox.exec("open('/root/new', 'w').close()").check()
                self.assertEqual(next(changes)["path"], "/root/new")
            with self.assertRaises(emberd.NoSpace):
                sandbox.files.write("/run/full", (bytes(1 << 20) for _ in range(1 << 10)))
