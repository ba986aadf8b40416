"""The synchronous client against a daemon with keys."""

from __future__ import annotations

import unittest

from .translated import suite


def load_tests(loader: unittest.TestLoader, _: object, __: object) -> unittest.TestSuite:
    return suite(loader, "access")
