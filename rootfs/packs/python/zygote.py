"""The guest's warm Python interpreter: has imported what most programs import, and forks.

    zygote ── fork ahead ──▶ spare ── work ──▶ the program ──▶ {"exit": code} ──▶ gone

The agent requests a fork; the child (a *spare*) waits on its own socket. The work that it
receives makes it behave like `python3 file.py`, including tracebacks, with the file in the
working directory, where modules are searched for first. If that is not possible, the spare
executes a new interpreter.

Usage: python3 zygote.py MODULE..., with the control socket in EMBERD_ZYGOTE_FD.
"""

# The names that a program finds in `__main__`, in this order; before any other name exists here.
IN_MAIN = dict(globals(), __doc__=None)

import sys

BARE = frozenset(sys.modules)
# Modules are searched for in the working directory of the program, not of the zygote.
HERE = sys.path.pop(0)
# Arguments of the interpreter before the program's file.
INTERPRETER = sys.orig_argv[:-len(sys.argv)]

import _io
import _socket
import _thread
import atexit
import gc
import itertools
import json
import opcode
import os
import random
import select
import signal
import site
import struct
import threading
import time
import types
import warnings
from importlib.machinery import ExtensionFileLoader, all_suffixes

# Where the spare keeps its socket: out of the way of the numbers a program's own files get,
# and within the 64 descriptors a process has room for from the start.
REPORT_FD = 63
# Maximum size of a datagram on the control socket, and read size of the work, in bytes.
CONTROL_BYTES_MAX = 4 << 10
WORK_READ_BYTES = 64 << 10
SOURCE_READ_BYTES = 64 << 10
# A program that uses typical features and leaves nothing behind.
REHEARSAL = """
import sys
def function(value):
    return [f"{part}" for part in {value: (value, 1.5)}[value]]
try:
    print(function("x"))
except KeyError:
    pass
"""
# A warning of the compiler is an error, for SyntaxWarnings are shown.
SAID = ("error", None, SyntaxWarning, None, 0)

# `sys` after a teardown has begun, as in finalize_modules_delete_special() of CPython.
SYS_DELETED = ("path", "argv", "ps1", "ps2", "last_exc", "last_type", "last_value",
               "last_traceback", "path_hooks", "path_importer_cache", "meta_path",
               "__interactivehook__")


def hidden(function):
    """Makes frames of `function` invisible to tracebacks, `f_back`, `sys._getframe`.

    CPython treats a frame that has not reached its RESUME instruction as not there yet; so
    one without it never is. Everything that is below the program on the stack, or is
    called by it, is hidden: a program has nothing below its `<module>`.
    """
    code = bytearray(function.__code__.co_code)
    for at in range(0, len(code), 2):
        if code[at] == opcode.opmap["RESUME"]:
            code[at:at + 2] = opcode.opmap["NOP"], 0
    function.__code__ = function.__code__.replace(co_code=bytes(code))
    return function


# Hidden frames still count for the recursion limit. One of them, `bottom`, is below the
# program: with a limit one higher, recursion ends where it would without.
BELOW = 1
get_limit, set_limit = sys.getrecursionlimit, sys.setrecursionlimit


@hidden
def getrecursionlimit():
    return get_limit() - BELOW


@hidden
def setrecursionlimit(limit, /):
    set_limit(limit + BELOW if isinstance(limit, int) and limit > 0 else limit)


# --- The zygote -----------------------------------------------------------------------------

def preload(names):
    for name in names:
        try:
            __import__(name)
        except Exception as error:
            print(f"zygote: cannot import {name}: {error}", file=sys.stderr, flush=True)


def descriptors(ancillary):
    """The file descriptors in the ancillary data of a message."""
    numbers = b"".join(data for _, kind, data in ancillary if kind == _socket.SCM_RIGHTS)
    return struct.unpack(f"{len(numbers) // 4}i", numbers)


def serve(control):
    """Forks on demand and reaps; returns in every child, with the descriptors meant for it."""
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    children = {}  # by the descriptor that tells their end
    control.send(b'{"ready":true}')
    while True:
        for ready, _ in poll.poll():
            if ready in children:
                poll.unregister(ready)
                os.close(ready)
                pid, status = os.waitpid(children.pop(ready), 0)
                control.send(b'{"ended":%d,"status":%d}' % (pid, status))
                continue
            message, ancillary, _, _ = control.recvmsg(CONTROL_BYTES_MAX, _socket.CMSG_SPACE(8))
            if not message:
                os._exit(0)
            number = json.loads(message)["fork"]
            given = descriptors(ancillary)
            try:
                pid = os.fork()
            except OSError as error:
                answer = {"failed": number, "error": str(error)}
                control.send(json.dumps(answer).encode())
            else:
                if pid == 0:
                    control.close()
                    for other in children:
                        os.close(other)
                    return given
                ended = os.pidfd_open(pid)
                children[ended] = pid
                poll.register(ended, select.POLLIN)
                control.send(b'{"forked":%d,"pid":%d}' % (number, pid))
            for descriptor in given:
                os.close(descriptor)


# --- The spare ------------------------------------------------------------------------------

report = None  # (device, inode) of the socket at REPORT_FD while it is this process's to use


@hidden
def disown_report():
    """In children of the program: the end of such a one is not the program's end."""
    global report
    if report is not None:
        report = None
        try:
            os.close(REPORT_FD)
        except OSError:
            pass  # the program has closed all it could


def become_spare(given):
    """Prepares everything that does not depend on the work. Signals are as in a new interpreter,
    because the zygote changes none."""
    global report
    os.setsid()
    if len(given) > 1:
        os.write(given[1], b"0")
        os.close(given[1])
    os.dup2(given[0], REPORT_FD, inheritable=False)
    os.close(given[0])
    socket = os.fstat(REPORT_FD)
    report = socket.st_dev, socket.st_ino

    sys.excepthook = sys.__excepthook__
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    threading.main_thread()._set_native_id()  # which the fork has left as it was
    set_limit(get_limit() + BELOW)
    sys.getrecursionlimit, sys.setrecursionlimit = getrecursionlimit, setrecursionlimit
    told = select.poll()
    told.register(REPORT_FD, select.POLLIN)
    for _ in rehearse(new_main()):
        # If an exec is already waiting, the rehearsal would only delay it.
        if told.poll(0):
            break
    # Only the program's objects are collected at its end.
    gc.freeze()
    return new_main()


def new_main():
    main = types.ModuleType("__main__")
    vars(main).update(IN_MAIN)
    if "__annotations__" in IN_MAIN:
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    return vars(main)


def rehearse(main):
    """Rehearses the work once. The kernel copies each page that a child writes to, mostly because
    of reference counts, and does so here, while no exec waits."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    work = b'{"file": "/", "args": ["a"], "env": {"K": "V"}, "cwd": "/"}'
    rights = _socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("3i", 0, 1, 2)
    theirs.sendmsg([len(work).to_bytes(4, "big"), work], [rights])
    receive_work(ours.fileno())
    yield
    compiled(os.devnull)
    os.getcwd()
    yield
    unchanged()
    shadows(HERE)
    yield
    seed()
    yield
    code = compile(REHEARSAL, os.devnull, "exec")
    adopt(main, os.devnull, HERE, [], code)
    types.FunctionType(code, {"__builtins__": __builtins__})()
    del sys.path[0], sys.path_importer_cache[os.devnull]
    # Flushed first, because buffered data would become the program's output.
    flush("stdout")
    flush("stderr")
    yield
    new_modules()
    gc.collect()


def receive_work(descriptor):
    """Waits for the work. The spare ends when the agent does."""
    channel = _socket.socket(fileno=descriptor)
    message, ancillary, _, _ = channel.recvmsg(WORK_READ_BYTES, _socket.CMSG_SPACE(12))
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[:4], "big"):
        more = channel.recv(WORK_READ_BYTES)
        if not more:
            os._exit(0)
        message += more
    channel.detach()
    for number, given in enumerate(descriptors(ancillary)):
        os.dup2(given, number)
        os.close(given)
    return json.loads(message[4:])


def prepare(main, environment):
    """Sets up the process for one program, and returns it as a function with the globals `main`."""
    work = receive_work(REPORT_FD)
    file, arguments = work["file"], work["args"]
    os.chdir(work["cwd"])
    if [*work["env"].items()] != environment:
        os.environ.clear()
        os.environ.update(work["env"])
        time.tzset()
    directory, code = os.getcwd(), compiled(file)
    if code is None or not unchanged() or shadows(directory):
        os.execv(sys.executable, [*INTERPRETER, file, *arguments])
    seed()
    return adopt(main, file, directory, arguments, code)


def seed():
    """Draws new random state, which is the same in all clones of one machine up to here."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def adopt(main, file, directory, arguments, code):
    sys.path.insert(0, directory)
    sys.path_importer_cache[file] = None
    sys.argv = [file, *arguments]
    sys.orig_argv = [*INTERPRETER, file, *arguments]
    main["__file__"] = file
    main["__loader__"] = type(IN_MAIN["__loader__"])("__main__", file)
    # Calling a function made of a module's code executes the module.
    return types.FunctionType(code, main)


def compiled(file):
    """Compiles `file`; None if there are errors or warnings. The interpreter itself reports those,
    because it reads a file differently from compile()."""
    warnings.filters.insert(0, SAID)
    opened = None
    try:
        opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        source = read = os.read(opened, SOURCE_READ_BYTES)
        while len(read) == SOURCE_READ_BYTES:
            read = os.read(opened, SOURCE_READ_BYTES)
            source += read
        return compile(source, file, "exec", dont_inherit=True)
    except Exception:
        return None
    finally:
        warnings.filters.remove(SAID)
        if opened is not None:
            os.close(opened)


SITE = [*site.getsitepackages(), site.getusersitepackages()]


def changed(path):
    """Returns when an entry of the directory was last added or removed; None if it is missing."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def site_times():
    return [changed(path) for path in SITE]


def site_hooks():
    """Returns what `site` reads at start-up: directories, and files that name further ones or are
    executed."""
    hooks = []
    for path in SITE:
        try:
            names = os.listdir(path)
        except OSError:
            continue
        hooks.append(path)
        for name in sorted(names):
            if name.endswith(".pth") or name.startswith(("sitecustomize", "usercustomize")):
                entry = os.stat(os.path.join(path, name))
                hooks.append((name, entry.st_mtime_ns, entry.st_size))
    return hooks


def unchanged():
    """Returns whether a new interpreter would start in the same way. Packages may have been
    installed since."""
    return site_times() == SITE_TIMES or site_hooks() == SITE_HOOKS


def shadows(directory):
    """Returns whether modules in the working directory shadow some that are already imported."""
    try:
        names = os.listdir(directory)
    except OSError:
        return False  # nor can the interpreter look into it
    for name in names:
        module, dot, rest = name.partition(".")
        if module in PRELOADED and (
                dot + rest in SUFFIXES if dot else os.path.isdir(os.path.join(directory, name))):
            return True
    return False


# --- The program's end ----------------------------------------------------------------------
# The steps of Py_RunMain() and Py_FinalizeEx() of CPython, in order.

def unraisable_type():
    """Returns the type of the argument of `sys.unraisablehook`, which has no public name."""
    class Failing:
        def __del__(self):
            raise Exception

    told = []
    sys.unraisablehook = told.append
    Failing()
    sys.unraisablehook = sys.__unraisablehook__
    return type(told[0])


Unraisable = unraisable_type()


@hidden
def ignored(error, culprit, doing):
    """Reports an exception as C code does that cannot raise it."""
    blamed = None, culprit
    if sys.version_info >= (3, 13):
        blamed = f"Exception ignored on {doing}", None
    try:
        sys.unraisablehook(Unraisable((type(error), error, error.__traceback__, *blamed)))
    except BaseException:
        pass


@hidden
def exit_status(error):
    """Returns the status of a SystemExit; a code that is not a number is printed."""
    try:
        code = error.code
    except BaseException:
        code = error
    if code is None:
        return 0
    if isinstance(code, int):
        # Truncated from a C long, as exit() does.
        return int(code) & 0xff if -1 << 63 <= code < 1 << 63 else 0xff
    try:
        if sys.stderr is None:
            os.write(2, str(code).encode("utf-8", "backslashreplace"))
        else:
            sys.stderr.write(str(code))
    except BaseException:
        pass
    say("\n")
    return 1


@hidden
def say(text):
    """Writes to standard error as the interpreter does."""
    try:
        sys.stderr.write(text)
    except BaseException:
        os.write(2, text.encode())


@hidden
def show(error):
    """PyErr_Print(): returns the status."""
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        hook = sys.excepthook
    except AttributeError:
        say("sys.excepthook is missing\n")
        hook = sys.__excepthook__
    try:
        sys.audit("sys.excepthook", hook, type(error), error, error.__traceback__)
        hook(type(error), error, error.__traceback__)
    except SystemExit as asked:
        return exit_status(asked)
    except BaseException as second:
        say("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        say("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    return 1


@hidden
def flush(name, aloud=False):
    """Flushes a stream of `sys`; returns False if that fails, and optionally reports it."""
    stream = vars(sys).get(name)
    try:
        closed = stream is None or stream.closed
    except BaseException:
        closed = False
    try:
        if not closed:
            stream.flush()
        return True
    except BaseException as error:
        if aloud:
            ignored(error, stream, f"flushing sys.{name}")
        return False


@hidden
def let_go():
    """Runs the finalizers of the program's objects, and flushes the files that it left open. Does
    not tear down the zygote's modules, which takes longer than many programs."""
    if gc.isenabled():
        gc.collect()
    for name in SYS_DELETED:
        if name in vars(sys):
            setattr(sys, name, None)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, getattr(sys, f"__{name}__"))
    # Tracebacks show no source from here on, as in any interpreter that is ending.
    for name in ["__main__", "io", "linecache", "traceback", *new_modules()]:
        sys.modules.pop(name, None)
    gc.collect()
    # A remaining thread may hold a file's lock indefinitely.
    if _thread._count() == 0:
        for thing in gc.get_objects():
            if issubclass(type(thing), _io._IOBase):
                try:
                    thing.close()
                except BaseException:
                    pass


@hidden
def new_modules():
    """Returns the modules that the program imported, which are the last ones. The others are not
    accessed, because changing their reference counts would copy their memory pages."""
    return list(itertools.takewhile(lambda name: name not in KEPT, reversed(sys.modules)))


@hidden
def foreign_streams():
    """Returns the function that flushes C's stdio streams, which only native code writes to."""
    for name in new_modules():
        module = sys.modules[name]
        spec = vars(module).get("__spec__") if type(module) is types.ModuleType else None
        foreign = (type(getattr(spec, "loader", None)) is ExtensionFileLoader
                   and "lib-dynload" not in str(spec.origin))
        if foreign or name == "ctypes":
            import ctypes
            return lambda: ctypes.CDLL(None).fflush(None)
    return lambda: None


@hidden
def finish(status, interrupted):
    try:
        threading._shutdown()
    except BaseException as error:
        ignored(error, threading, "threading shutdown")
    atexit._run_exitfuncs()
    if not flush("stdout", aloud=True) & flush("stderr"):
        status = 120
    flush_foreign = foreign_streams()
    let_go()
    flush("stdout")
    flush("stderr")
    flush_foreign()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if report is not None:
        message = b'{"exit":%d}' % status
        try:
            socket = os.fstat(REPORT_FD)
            if (socket.st_dev, socket.st_ino) == report:
                os.write(REPORT_FD, len(message).to_bytes(4, "big") + message)
        except OSError:
            pass  # the agent learns of the end by the process's
    os._exit(status)


# --- The bottom of every stack --------------------------------------------------------------

@hidden
def bottom(*_):
    """Called by C, as `sys.excepthook`, after the last frame of this file has ended."""
    main = become_spare(serve(_socket.socket(fileno=CONTROL_FD)))
    program = prepare(main, [*os.environ.items()])
    failure, status = None, 0
    try:
        program()
    except BaseException as error:
        failure = error
    flush("stderr")
    flush("stdout")
    interrupted = type(failure) is KeyboardInterrupt
    if isinstance(failure, SystemExit):
        status = exit_status(failure)
    else:
        if failure is not None:
            status = show(failure)
        main.pop("__file__", None)
        main.pop("__cached__", None)
    del main, program, failure
    finish(status, interrupted)


@hidden
def caller_of(function):
    return function()


if caller_of(lambda: sys._getframe(1)).f_code is caller_of.__code__:
    sys.exit("zygote: this interpreter shows hidden frames")
CONTROL_FD = int(os.environ.pop("EMBERD_ZYGOTE_FD"))
os.set_inheritable(CONTROL_FD, False)
os.register_at_fork(after_in_child=disown_report)
preload(sys.argv[1:])
SUFFIXES = frozenset(all_suffixes())
PRELOADED = {name.partition(".")[0] for name in sys.modules.keys() - BARE}
# Kept until the process ends, because freeing them takes time.
KEPT = {**sys.modules}
KEPT_OF_SYS = sys.path_importer_cache, sys.path, sys.path_hooks, sys.meta_path
SITE_TIMES, SITE_HOOKS = site_times(), site_hooks()
sys.path_importer_cache.pop(__file__, None)
gc.collect()
gc.freeze()
sys.excepthook = bottom
raise SystemError("the zygote continues in `bottom`, without a frame of this file on the stack")
