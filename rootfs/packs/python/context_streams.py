"""Standard output and error of a context: two pipes, between which the order is kept."""

import fcntl
import io
import os
import select
import stat
import sys
import time

# Lowest descriptor for copies of standard output and error, which are restored if closed.
KEPT_FD = 60
# Requests the number of bytes in a pipe, and an empty answer.
FIONREAD, NOTHING = 0x541B, bytes(4)


class Pipe(io.BufferedWriter):
    """Standard output or error. The agent reads the two pipes separately. To keep their order, data
    in one pipe is read before the other is written to. The write itself is not in Python, because
    an interrupt after it would repeat it."""

    def __init__(self, number, name):
        raw = io.FileIO(number, "w", closefd=False)
        raw.name = name
        self.number, self.other, self.has_more = number, 3 - number, False
        super().__init__(raw)

    def write(self, data):
        if UNREAD[self.other]:
            settle(self.other)
        self.has_more = UNREAD[self.number] = True
        return super().write(data)

    def flush(self):
        if self.has_more:
            if UNREAD[self.other]:
                settle(self.other)
            self.has_more = False
            UNREAD[self.number] = True
        super().flush()


class Stream(io.TextIOWrapper):
    """Writes text to a pipe, line by line, after flushing the other stream."""

    other = None
    is_waiting = False

    def write(self, text):
        other = self.other
        if other is not None and other.is_waiting:
            other.is_waiting = False
            flush(other)
        self.is_waiting = True
        return super().write(text)


def settle(number):
    """Waits until a pipe is empty, which means that the agent has read its data in order."""
    turns = 0
    while has_unread(number):
        turns += 1
        if turns < 8:
            os.sched_yield()
        else:
            time.sleep(min(turns * 5e-6, 1e-3))
    UNREAD[number] = number in written_by_others


def has_unread(number):
    try:
        if fcntl.ioctl(number, FIONREAD, NOTHING) == NOTHING:
            return False
        # The descriptor may have been replaced by one that is never read.
        poll = select.poll()
        poll.register(number, 0)
        return PIPES.get(number) == identity(number) and not poll.poll(0)
    except OSError:
        return False


def identity(number):
    status = os.fstat(number)
    return (status.st_dev, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None


def open_streams():
    """Makes output line-buffered and input empty; restores both after `exit()`."""
    current = getattr(sys, "stdin", None)
    if current is None or getattr(current, "closed", False):
        sys.stdin = sys.__stdin__ = open(0, closefd=False)
    for name, number in ("stdout", 1), ("stderr", 2):
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            os.dup2(KEPT[number], number)
        stream = getattr(sys, f"__{name}__", None)
        if type(stream) is not Stream or stream.closed:
            stream = new_stream(name, number, stream)
        current = getattr(sys, name, None)
        if current is None or getattr(current, "closed", False):
            setattr(sys, name, stream)
    sys.__stdout__.other, sys.__stderr__.other = sys.__stderr__, sys.__stdout__


def new_stream(name, number, former):
    """Replaces the interpreter's own stream, or one that was closed."""
    # Any string can be printed, including unpaired surrogates.
    stream = Stream(Pipe(number, f"<{name}>"), getattr(former, "encoding", None) or "utf-8",
                    errors="backslashreplace", line_buffering=True)
    stream.mode = "w"
    if getattr(sys, name, None) is former:
        setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
    return stream


def flush(stream):
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass  # closed, or replaced by something odd


def flush_streams():
    for name in "stdout", "stderr":
        flush(getattr(sys, name, None))


KEPT = {number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, KEPT_FD) for number in (1, 2)}
# Whether a pipe may have data, and pipes that children may write to as well.
UNREAD = {1: False, 2: False}
written_by_others = set()
PIPES = {number: identity(number) for number in (1, 2)}


def watch_children():
    """Makes output before a child starts precede the output of the child."""
    pid = os.getpid()

    def hear(event, _):
        if event in CHILDREN_BEGIN and os.getpid() == pid:
            flush_streams()
            settle(1)
            settle(2)
            written_by_others.update(UNREAD)
            UNREAD.update({1: True, 2: True})
    sys.addaudithook(hear)


CHILDREN_BEGIN = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
                  "subprocess.Popen"}
