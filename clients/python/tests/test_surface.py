"""Nothing of the API is missing, sync and async are one surface, generated files are up to date."""

from __future__ import annotations

import inspect
import json
import pathlib
import pickle
import re
import subprocess
import sys
import unittest
from typing import Any

import emberd
import emberd.aio
from emberd import errors

from .fake import FakeDaemon, answer
from .operations import OPERATIONS

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent.parent
DOCUMENT = json.loads((REPOSITORY / "crates/emberd/tests/it/api/openapi.json").read_text())

#: Parameters that the client gives itself, or that have another way: `TRACEPARENT` is a variable
#: of the program (`env`).
GIVEN = {"last-event-id", "accept", "follow", "range", "idempotency-key", "traceparent"}
#: Names of parameters that Python writes otherwise.
WRITTEN = {"from": "from_"}


def operations() -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def parameters(function: Any) -> list[str]:
    return [
        name for name in inspect.signature(inspect.unwrap(function)).parameters if name != "self"
    ]


class Surface(unittest.TestCase):
    def test_every_operation_has_a_method(self) -> None:
        self.assertEqual(set(OPERATIONS), set(operations()))
        for package in (emberd, emberd.aio):
            for operation, where in OPERATIONS.items():
                kind, _, method = where.partition(".")
                self.assertTrue(callable(getattr(getattr(package, kind), method, None)), where)
                self.assertTrue(callable(getattr(package.Client, operation, None)), operation)

    def test_every_parameter_has_its_own_name(self) -> None:
        for name, (_, _, operation) in operations().items():
            taken = set(parameters(getattr(emberd.Client, name)))
            for parameter in operation.get("parameters", []):
                wanted = WRITTEN.get(parameter["name"], parameter["name"])
                self.assertTrue(wanted in taken or wanted in GIVEN, f"{name} lacks {wanted}")
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                self.assertIn("body", taken, name)

    def test_every_operation_sends_its_own_method_and_path(self) -> None:
        seen: list[tuple[str, str]] = []

        def handler(request: Any) -> bytes:
            seen.append((request.method, request.path))
            return answer({"error": "asked", "code": "internal"}, status=500)

        words = {
            "id": "sb_1",
            "context": "ctx_1",
            "pid": 7,
            "port": 80,
            "pack": "python",
            "path": "/p",
            "content": b"",
            "body": {},
            "from_": "/a",
            "to": "/b",
        }
        with FakeDaemon(handler) as daemon, emberd.Client(daemon.address) as client:
            for name, (method, path, _) in operations().items():
                function = getattr(client, name)
                required = [
                    words[key]
                    for key, one in inspect.signature(function).parameters.items()
                    if one.default is inspect.Parameter.empty
                ]
                with self.assertRaises(emberd.ApiError):
                    function(*required)
                expect = re.sub(r"\{(\w+)\}", lambda found: str(words[found[1]]), path)
                self.assertEqual(seen[-1], (method, expect), name)

    def test_both_have_the_same_names_and_arguments(self) -> None:
        self.assertEqual(
            set(emberd.aio.__all__),
            {
                name
                for name in emberd.__all__
                if inspect.isclass(getattr(emberd, name))
                and "_sync" in getattr(emberd, name).__module__
            },
        )
        renamed = {
            "aclose": "close",
            "__anext__": "__next__",
            "__aiter__": "__iter__",
            "__aenter__": "__enter__",
            "__aexit__": "__exit__",
        }
        for name in emberd.aio.__all__:
            sync, other = getattr(emberd, name), getattr(emberd.aio, name)
            methods = {
                renamed.get(key, key): one for key, one in inspect.getmembers(other, callable)
            }
            for key, method in inspect.getmembers(sync, inspect.isfunction):
                self.assertIn(key, methods, name)
                self.assertEqual(parameters(method), parameters(methods[key]), f"{name}.{key}")

    def test_generated_files_are_up_to_date(self) -> None:
        for tool in ("generate_types.py", "generate_sync.py"):
            run = [sys.executable, str(PACKAGE / "tools" / tool), "--check"]
            done = subprocess.run(run, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_every_public_name_is_documented(self) -> None:
        for name in emberd.__all__:
            one = getattr(emberd, name)
            self.assertTrue(inspect.getdoc(one), name)
            if inspect.isclass(one) and one.__module__.startswith("emberd."):
                for key, method in inspect.getmembers(one, inspect.isfunction):
                    self.assertTrue(key.startswith("_") or inspect.getdoc(method), f"{name}.{key}")

    def test_the_version_is_the_daemons(self) -> None:
        self.assertEqual(emberd.__version__, DOCUMENT["info"]["version"])
        self.assertIn(f'version = "{emberd.__version__}"', (PACKAGE / "pyproject.toml").read_text())


class Errors(unittest.TestCase):
    def test_every_code_of_the_api_has_a_class(self) -> None:
        page = (REPOSITORY / "docs/src/reference/errors.md").read_text()
        rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", page, re.MULTILINE)
        self.assertGreater(len(rows), 40)
        for status, code in rows:
            error = errors.api_error(int(status), {"error": "no", "code": code, "hint": "try"})
            self.assertTrue(int(status) == 500 or type(error) is not errors.ApiError, code)
            self.assertEqual((error.status, error.code, error.hint), (int(status), code, "try"))
            self.assertEqual(str(error), f"no ({status} {code})\nhint: try")

    def test_an_unknown_code_is_treated_like_its_status(self) -> None:
        self.assertIs(type(errors.api_error(404, {"error": "x", "code": "new"})), emberd.NotFound)
        self.assertIs(type(errors.api_error(499, {"error": "x", "code": "new"})), emberd.ApiError)

    def test_errors_can_be_sent_to_another_process(self) -> None:
        error = errors.api_error(404, {"error": "x", "code": "not_found"}, request_id="r")
        copy = pickle.loads(pickle.dumps(error))
        self.assertEqual(
            (type(copy), str(copy), copy.request_id), (emberd.NotFound, str(error), "r")
        )
