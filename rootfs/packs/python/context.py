"""A context: a Python interpreter that keeps its variables between runs.

    {"call":"run","code":…} ─▶ started ─▶ (display | output)* ─▶ result? or error ─▶ done

One line of JSON each, on the socket that is the initial standard input. SIGINT is handled between
`started` and `done`. Run by a new interpreter, or by a fork of the zygote.
"""

import __future__

import _signal
import ast
import builtins
import contextvars
import inspect
import json
import linecache
import os
import re
import socket
import sys
import threading
import traceback
import types

# Descriptor of the channel, above the numbers that a program's own files get.
CHANNEL_FD = 62
# Variable of the span that a run belongs to.
PARENT = "TRACEPARENT"
# Maximum length of a traceback, and of an exception's text, in characters.
TRACEBACK_MAX = 1 << 20
# File name of a run's code.
CODE_NAME = re.compile(r"<run \d+(:\d+)?>\Z")
# Words that begin a line that may be a command or Python.
BARE = re.compile(r"\s*(?:cat|cd|conda|cp|env|ll|ls|mkdir|mv|pip|pwd|rm|rmdir|run|time|timeit|uv"
                  r"|who|whos)(?:[ \t]+[^\s=(.\[,:][^\n]*)?\s*\Z")
FUTURES = [getattr(__future__, name).compiler_flag for name in __future__.all_feature_names]


def part(name):
    """Loads another file of this program as a module that other code cannot import."""
    path = os.path.join(HERE, f"context_{name}.py")
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module = types.ModuleType(f"context_{name}")
    exec(code, vars(module))
    return module


class Channel:
    """Lines of JSON to and from the host. An interrupt never splits a line."""

    def __init__(self):
        os.dup2(0, CHANNEL_FD, inheritable=False)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        self.socket = socket.socket(fileno=CHANNEL_FD)
        self.lock = threading.RLock()
        self.received = self.held = b""
        self.sending = False

    def receive(self):
        """Returns the next call; None if the host closed the channel. Tasks continue meanwhile."""
        pieces = [self.received]
        while b"\n" not in pieces[-1]:
            asynchronous.idle(self.socket)
            pieces.append(self.socket.recv(1 << 16))
            if not pieces[-1]:
                return None
        line, _, self.received = b"".join(pieces).partition(b"\n")
        return json.loads(line)

    def hold(self, event):
        """Buffers an event until the next one: each write wakes the agent and the host."""
        line = values.line_of(event)
        with self.lock:
            self.held += line

    def send(self, event):
        if is_child():
            return
        line = values.line_of(event)
        streams.flush_streams()
        with self.lock:
            self.sending = threading.current_thread() is threading.main_thread()
            try:
                lines, self.held = self.held + line, b""
                self.socket.sendall(lines)
            finally:
                self.sending = False
        if interrupt.pending and threading.current_thread() is threading.main_thread():
            interrupt.pending = False
            raise KeyboardInterrupt

    def close(self):
        """Closes the channel in child processes of the program."""
        try:
            os.close(CHANNEL_FD)
        except OSError:
            pass


class Interrupt:
    """Handles SIGINT: ends the run after any line that is being sent."""

    def __init__(self):
        self.armed = self.pending = False

    def __call__(self, _, frame):
        if not self.armed:
            return
        if channel.sending:
            self.pending = True
        elif not asynchronous.cancels(frame):
            raise KeyboardInterrupt


def is_child():
    """Returns whether this is a child process that the code forked."""
    return os.getpid() != PID


def no_input(prompt="", /):
    """Replaces `input()`, which has no input here."""
    if getattr(sys, "stdin", None) is not sys.__stdin__:
        return python_input(prompt)
    print(prompt, end="", flush=True)
    raise EOFError("EOF when reading a line: standard input is empty, so input() is not supported")


python_input = builtins.input


# --- Values ---------------------------------------------------------------------------------

def display(*shown, raw=False):
    """Displays values; with `raw`, dictionaries of forms by MIME type."""
    for value in shown:
        if raw:
            forms = values.bounded(dict(value))
        elif values.shows_itself(value):
            continue
        else:
            try:
                forms = values.forms_of(value)
            except Exception as error:
                values.complain(value, "__repr__", error)
                continue
        if is_child():
            print(forms.get("text/plain", ""))
        else:
            channel.send({"event": "display", "data": forms})


class WhenImported:
    """Calls a function with a module as soon as it is imported."""

    def __init__(self, name, adopt):
        self.name, self.adopt = name, adopt
        if name in sys.modules:
            adopt(sys.modules[name])
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute_module = spec.loader.exec_module

            def exec_module(module):
                execute_module(module)
                self.adopt(module)
            spec.loader.exec_module = exec_module
        return spec


def show_figures(*_, **__):
    """Implements `plt.show()`: displays and closes all open figures."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    try:
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            # An empty figure is not displayed.
            if figure.axes or figure.lines or figure.patches or figure.texts or figure.images:
                display(figure)
    finally:
        pyplot.close("all")


# --- Runs -----------------------------------------------------------------------------------

class Parent:
    """The span that a run belongs to, in the environment. A variable that code has set stays."""

    def __init__(self):
        self.environ, self.given = os.environ, None

    def set(self, span):
        found = self.environ.get(PARENT)
        if found is not None and found != self.given:
            return
        self.given = span
        if span is not None:
            self.environ[PARENT] = span
        elif found is not None:
            del self.environ[PARENT]


class Context:
    """Executes runs in one namespace."""

    def __init__(self):
        self.main = types.ModuleType("__main__")
        vars(self.main).update(__builtins__=builtins, __annotations__={})
        sys.modules["__main__"] = self.main
        self.count = self.nesting = 0
        self.futures = 0
        self.variables = contextvars.copy_context()
        self.magics = None
        builtins.display = display
        builtins.input = no_input

    def run(self, code):
        """Executes one run, from `started` up to `done`, which is not sent here."""
        self.count += 1
        failure = None
        # Code may have replaced the handler. (`signal` itself is slow, because it creates enums.)
        if _signal.getsignal(_signal.SIGINT) is not interrupt:
            _signal.signal(_signal.SIGINT, interrupt)
        try:
            interrupt.armed = True
            channel.send({"event": "started", "execution_count": self.count})
            asynchronous.begin()
            try:
                self.execute(code)
            except BaseException as error:
                failure = error
            if not is_child():
                # Figures of a failed run are displayed too.
                show_figures()
        except BaseException as error:
            failure = failure or error
        if is_child():
            # A forked child has reached the end of the code, and ends as a program does.
            end_child(failure)
        while True:
            # An interrupt may arrive until the handler is removed.
            try:
                interrupt.armed = interrupt.pending = False
                break
            except KeyboardInterrupt as error:
                failure = failure or error
        if failure is not None:
            self.report(failure)

    def execute(self, source):
        """Runs the code and shows the value of its last expression."""
        # Warnings are shown again in each run.
        vars(self.main).pop("__warningregistry__", None)
        value = self.value_of(source, f"<run {self.count}>")
        if value is not None:
            self.show(value)

    def nested(self, source):
        """Runs nested code of a run; returns the value of its last expression."""
        self.nesting += 1
        return self.value_of(source, f"<run {self.count}:{self.nesting}>")

    def value_of(self, source, name):
        """Runs code. Returns the value of its last expression if that is wanted."""
        lines = lines_of(source)
        linecache.cache[name] = (len(source), None, [f"{line}\n" for line in lines], name)
        tree = self.parse(source, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = tree.body.pop()
        if tree.body:
            self.evaluate(tree, name, "exec")
        if last is None:
            return None
        value = self.evaluate(ast.Expression(last.value), name, "eval")
        return None if ";" in source and is_quiet(lines, last) else value

    def sources(self):
        """Returns the code of each run so far."""
        for count in range(1, self.count + 1):
            yield "".join(linecache.getlines(f"<run {count}>")).removesuffix("\n")

    def parse(self, source, name):
        """Parses the code; if that fails, parses it with its magics replaced."""
        if not BARE.match(source):
            try:
                return ast.parse(source, name)
            except SyntaxError:
                pass  # told below, if that is what it is
        plain = self.load_magics().replaced(source)
        return ast.parse(source if plain is None else plain, name)

    def load_magics(self):
        """Returns the magics, which are loaded when first needed."""
        if self.magics is None:
            self.magics = builtins.__magic__ = part("magics").Magics(self)
        return self.magics

    def evaluate(self, tree, name, mode):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self.futures
        code = compile(tree, name, mode, flags, dont_inherit=True)
        for flag in FUTURES:
            self.futures |= code.co_flags & flag
        if not code.co_flags & inspect.CO_COROUTINE:
            return self.within(eval, code, vars(self.main))
        if mode == "exec" and len(tree.body) > 1:
            # Only statements that await need the event loop.
            for statement in tree.body:
                self.evaluate(ast.Module([statement], []), name, mode)
            return None
        variables = None if self.is_within() else self.variables
        return asynchronous.finish(eval(code, vars(self.main)), variables)

    def within(self, function, *arguments):
        """Calls a function with the context variables that code has set so far."""
        if self.is_within():
            return function(*arguments)
        return self.variables.run(function, *arguments)

    def is_within(self):
        try:
            self.variables.run(int)
        except RuntimeError:
            return True
        return False

    def show(self, value):
        """Sends the value as the result, and stores it as `_` and the previous one as `__`."""
        if is_child():
            return
        if not self.within(values.shows_itself, value):
            channel.hold({"event": "result", "data": self.within(values.forms_of, value)})
        for name, former in ("___", "__"), ("__", "_"):
            if former in vars(builtins):
                setattr(builtins, name, getattr(builtins, former))
        builtins._ = value
        if values.figure_is_open(value):
            sys.modules["matplotlib.pyplot"].close(value)

    def report(self, failure):
        """Sends the error of a run. The traceback has only frames of the code."""
        try:
            text = str.__str__(str(failure))
        except Exception:
            text = f"<unprintable {values.name_of(type(failure))}>"
        try:
            frames = traceback.TracebackException(
                type(failure), failure, of_code(failure.__traceback__), compact=True)
            shown = "".join(frames.format())
        except Exception:
            shown = f"{values.name_of(type(failure))}: {text}\n"
        channel.send({
            "event": "error",
            "name": values.name_of(type(failure)),
            "value": values.cut(text, TRACEBACK_MAX),
            "traceback": values.cut(shown, TRACEBACK_MAX),
        })


def end_child(failure):
    """Ends the process as the interpreter ends a program, with its message and exit code."""
    hook = sys.excepthook

    def say(kind, error, frames):
        frames = of_code(frames)
        if hook is sys.__excepthook__:
            traceback.print_exception(kind, error, frames)
        else:
            hook(kind, error, frames)
    sys.excepthook = say
    raise failure or SystemExit(0)


def lines_of(source):
    """Returns the lines of the code as Python counts them."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def is_quiet(lines, last):
    """Returns whether a semicolon follows the last expression; comments do not count."""
    line = lines[last.end_lineno - 1].encode("utf-8", "surrogatepass")
    rest = [line[last.end_col_offset:].decode("utf-8", "replace"), *lines[last.end_lineno:]]
    return any(";" in line.partition("#")[0] for line in rest)


def of_code(frames):
    """Returns a traceback that starts at the first frame of a run's code."""
    while frames is not None and not CODE_NAME.match(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    kept = frames
    while kept is not None:
        while kept.tb_next is not None and is_ours(kept.tb_next):
            kept.tb_next = kept.tb_next.tb_next
        kept = kept.tb_next
    return frames


def is_ours(frame):
    return os.path.dirname(frame.tb_frame.f_code.co_filename) == HERE


def enter_child():
    """Prepares a child process that the code forked."""
    channel.close()
    asynchronous.leave()
    interrupt.armed, interrupt.pending, channel.sending = True, False, False


def adopt_pyplot(pyplot):
    pyplot.show = show_figures


def main():
    if sys.path:
        # Modules are searched for in the working directory.
        sys.path[0] = ""
    sys.argv = [""]
    os.environ.setdefault("MPLBACKEND", "agg")
    WhenImported("matplotlib.pyplot", adopt_pyplot)
    WhenImported("asyncio", asynchronous.adopt)
    os.register_at_fork(before=streams.flush_streams, after_in_child=enter_child)
    streams.watch_children()
    _signal.signal(_signal.SIGINT, interrupt)
    context, parent = Context(), Parent()
    channel.send({"event": "ready"})
    while True:
        call = channel.receive()
        if call is None:
            return
        streams.open_streams()
        parent.set(call.get("traceparent"))
        image_bytes_max = call.get("max_image_bytes")
        values.image_bytes_max = None if image_bytes_max is None else int(image_bytes_max)
        context.run(call["code"])
        channel.send({"event": "done", "execution_count": context.count})


PID = os.getpid()
MAIN_THREAD = threading.get_ident()
HERE = os.path.dirname(os.path.abspath(__file__))
streams = part("streams")
values = part("values")
interrupt = Interrupt()
asynchronous = part("loop").Asynchronous(interrupt)
channel = Channel()
streams.open_streams()
main()
