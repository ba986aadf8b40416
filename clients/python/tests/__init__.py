"""Tests of the package. A test that hangs ends all of them, with the place where it hangs."""

import faulthandler

#: Longest time that the tests of one process may take, in seconds.
PATIENCE_S = 900

faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
