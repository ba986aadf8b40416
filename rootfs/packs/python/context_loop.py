"""The event loop of a context, which all runs share and which continues between them."""

import os
import threading

# Maximum number of task failures that are kept until the next run reports them.
LATE_MAX = 64


class Asynchronous:
    """The one event loop of the context.

    It counts as running wherever code asks for the loop that runs, so that tasks can be made. It
    really runs while code awaits, and while the context waits for its next run. Otherwise any
    loop may be run, this one too, as by `asyncio.run()`: it finds no loop that runs.
    """

    def __init__(self, interrupt):
        self.interrupt = interrupt
        self.pid, self.thread = os.getpid(), threading.get_ident()
        self.asyncio = self.loop = self.task = None
        self.is_interrupted = False
        self.late = []

    def adopt(self, asyncio):
        """Called once asyncio is imported."""
        self.asyncio = asyncio
        events = asyncio.events
        self.get, self.set = events._get_running_loop, events._set_running_loop
        # asyncio uses these to check whether a loop is running before it runs another.
        for module in asyncio, events:
            module._get_running_loop, module._set_running_loop = self.get_running, self.set_running
        self.open()

    def open(self):
        """Creates the loop, if this is the main thread of the context."""
        is_here = os.getpid() == self.pid and threading.get_ident() == self.thread
        if is_here and self.get() is None:
            self.loop = self.asyncio.SelectorEventLoop()
            self.loop.set_exception_handler(self.failed)
            self.asyncio.set_event_loop(self.loop)
            self.set(self.loop)

    def get_running(self):
        loop = self.get()
        return None if loop is self.loop and loop is not None and not loop.is_running() else loop

    def set_running(self, loop):
        if loop is None and threading.get_ident() == self.thread:
            loop = self.loop
        self.set(loop)

    def leave(self):
        """Removes the loop in a child process."""
        if self.loop is not None:
            self.loop = None
            self.set(None)

    def begin(self):
        """Reports failures since the last run."""
        if self.asyncio is None:
            return
        if self.loop is not None and self.loop.is_closed():
            self.loop = None
            self.set(None)
        self.open()
        late, self.late = self.late, []
        for failure in late:
            self.loop.default_exception_handler(failure)

    def failed(self, loop, failure):
        """Handles failures of tasks and callbacks."""
        if self.interrupt.armed:
            loop.default_exception_handler(failure)
        elif len(self.late) < LATE_MAX:
            self.late.append(failure)

    def finish(self, coroutine, variables):
        """Runs the loop until the coroutine has finished."""
        if self.loop is None:
            __import__("asyncio")
            self.open()
        self.is_interrupted = False
        self.task = task = self.loop.create_task(coroutine, context=variables)
        try:
            return self.loop.run_until_complete(task)
        except self.asyncio.CancelledError as cancelled:
            if self.is_interrupted:
                raise KeyboardInterrupt().with_traceback(cancelled.__traceback__) from None
            raise
        except (KeyboardInterrupt, SystemExit):
            self.cancel(task)
            raise
        finally:
            self.task = None

    def cancel(self, task):
        if task.done():
            # Prevents the warning that its exception was never retrieved.
            task.cancelled() or task.exception()
            return
        task.cancel()
        try:
            self.loop.run_until_complete(task)
        except self.asyncio.CancelledError:
            pass

    def cancels(self, frame):
        """Returns whether an interrupt in this frame cancels what the run awaits. An interrupt must
        not stop the loop's own code, only the code that it calls."""
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        task = self.task
        if task is None or self.is_interrupted or module not in ("asyncio", "selectors"):
            return False
        if not self.loop.is_running():
            return False
        self.is_interrupted = True
        task.cancel()
        # Wakes the loop.
        self.loop.call_soon_threadsafe(int)
        return True

    def idle(self, readable):
        """Runs the loop until the socket is readable, if it has anything to do."""
        loop = self.loop
        while loop is not None and not loop.is_closed() and self.has_work():
            loop.add_reader(readable.fileno(), loop.stop)
            try:
                loop.run_forever()
                return
            except BaseException as error:
                self.failed(loop, {"message": "Task left the event loop", "exception": error})
            finally:
                loop.remove_reader(readable.fileno())

    def has_work(self):
        loop = self.loop
        # The loop may watch descriptors other than the one that wakes it.
        return bool(loop._ready or loop._scheduled or len(loop._selector.get_map()) > 1
                    or self.asyncio.all_tasks(loop))
