"""Tests of the asynchronous client, translated as the client is."""

from __future__ import annotations

import pathlib
import re
import sys
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tools"))

from generate_sync import WORDS  # noqa: E402

TESTS = [
    *WORDS,
    (r"\bunittest\.IsolatedAsyncioTestCase\b", "unittest.TestCase"),
    (r"\bimport emberd\.aio as emberd\b", "import emberd"),
    (r"\bfrom emberd\.aio(\._net)? import\b", r"from emberd._sync\1 import"),
    (r"\basyncSetUp\b", "setUp"),
    (r"\baddAsyncCleanup\b", "addCleanup"),
]


def suite(loader: unittest.TestLoader, *names: str) -> unittest.TestSuite:
    """The tests of `test_aio_NAME`, as `test_sync_NAME`."""
    tests = unittest.TestSuite()
    for name in names:
        path = HERE / f"test_aio_{name}.py"
        text = path.read_text()
        for word, other in TESTS:
            text = re.sub(word, other, text)
        module = types.ModuleType(f"tests.test_sync_{name}")
        module.__package__ = "tests"
        exec(compile(text, str(path), "exec"), module.__dict__)
        tests.addTests(loader.loadTestsFromModule(module))
    return tests
