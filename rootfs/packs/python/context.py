"""A context: a Python interpreter that keeps its variables between runs.

    {"call":"run","code":…} ─▶ started ─▶ (display | output)* ─▶ result? or error ─▶ done

One line of JSON each, on the socket that is standard input when this starts. SIGINT is heeded
between `started` and `done`. Run by a new interpreter, or by a fork of the zygote.
"""

import ast
import base64
import builtins
import inspect
import json
import linecache
import os
import re
import signal
import socket
import sys
import threading
import traceback
import types
import __future__

# Where the channel is kept: out of the way of the numbers a program's own files get.
CHANNEL_FD = 62
# The largest form of one value, and all forms of it together, in bytes: the host takes lines of
# 32 MiB.
FORM_BYTES_MAX = 8 << 20
EVENT_BYTES_MAX = 24 << 20
# The largest traceback, and the longest text of an exception, in characters.
TRACEBACK_MAX = 1 << 20
# What a value has to show for itself, beside its repr().
FORMS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
}
# Values of these very types have nothing but their repr() to show.
PLAIN = {bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple}
# Formats of `savefig.format` in matplotlib's settings, beside png.
FIGURE_FORMS = {"svg": "image/svg+xml", "jpg": "image/jpeg", "jpeg": "image/jpeg"}
FUTURES = [getattr(__future__, name).compiler_flag for name in __future__.all_feature_names]


class Channel:
    """Lines of JSON to and from the host. No interrupt ever tears one."""

    def __init__(self):
        os.dup2(0, CHANNEL_FD, inheritable=False)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        self.socket = socket.socket(fileno=CHANNEL_FD)
        self.reader = self.socket.makefile("rb")
        self.lock = threading.RLock()
        self.held = b""
        self.sending = False

    def receive(self):
        """The next call; None when the host has left."""
        line = self.reader.readline()
        return json.loads(line) if line else None

    def hold(self, event):
        """Sends it with the next: each writing wakes the agent and, past it, the host."""
        line = line_of(event)
        with self.lock:
            self.held += line

    def send(self, event):
        line = line_of(event)
        for stream in sys.stdout, sys.stderr:
            flush(stream)
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
        """In children of the program, which are not the context."""
        try:
            os.close(CHANNEL_FD)
        except OSError:
            pass


ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def line_of(event):
    # Half a surrogate pair is no Unicode: it becomes a question mark.
    return (ENCODER.encode(event) + "\n").encode("utf-8", "replace")


class Interrupt:
    """What SIGINT does: ends the run, once whatever is being sent has been."""

    def __init__(self):
        self.armed = self.pending = False

    def __call__(self, *_):
        if not self.armed:
            return
        if channel.sending:
            self.pending = True
        else:
            raise KeyboardInterrupt


def flush(stream):
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass  # closed, or replaced by something odd


# --- Values ---------------------------------------------------------------------------------

def forms_of(value):
    """The value in each of its forms, by MIME type."""
    if type(value) in PLAIN:
        return bounded({"text/plain": repr(value)})
    own = figure_forms(value)
    if own is None:
        own = {}
        if not isinstance(value, type):
            own = asked(value, "_repr_mimebundle_", include=None, exclude=None)
            own = {**own} if isinstance(own, dict) else {}
            for mime, method in FORMS.items():
                if mime not in own:
                    own[mime] = asked(value, method)
    own.setdefault("text/plain", None)
    if own["text/plain"] is None:
        own["text/plain"] = repr(value)
    return bounded({mime: form for mime, form in own.items() if form is not None})


def asked(value, method, **arguments):
    """What the value's own method shows; None if it has none, or fails."""
    try:
        method = getattr(value, method, None)
        shown = method(**arguments) if callable(method) else None
    except NotImplementedError:
        return None
    except Exception as error:
        print(f"{type(value).__name__}.{method.__name__}: {error!r}", file=sys.stderr)
        return None
    return shown[0] if isinstance(shown, tuple) and shown else shown


def bounded(forms):
    """The forms as JSON can carry them, within the limits; what is left out is said."""
    kept, notes, total = {}, [], 0
    for mime, form in sorted(forms.items(), key=lambda item: item[0] != "text/plain"):
        if isinstance(form, (bytes, bytearray, memoryview)):
            form = base64.b64encode(form).decode()
        elif mime.endswith("json"):
            try:
                form = json.loads(json.dumps(form, allow_nan=False))
            except (TypeError, ValueError) as error:
                notes.append(f"{mime} left out: {error}")
                continue
        elif not isinstance(form, str):
            form = str(form)
        size = len(form if isinstance(form, str) else json.dumps(form))
        if mime == "text/plain" and size > FORM_BYTES_MAX // 8:
            form = cut(form, FORM_BYTES_MAX // 8)
            size = len(form)
        if size > FORM_BYTES_MAX or total + size > EVENT_BYTES_MAX:
            notes.append(f"{mime} left out: it has {size} characters, "
                         f"over the limit of {FORM_BYTES_MAX}")
            continue
        total += size
        kept[mime] = form
    if notes:
        kept["text/plain"] = "\n".join([kept.get("text/plain", ""), *map("[{}]".format, notes)])
    return kept


def cut(text, limit):
    """Text of at most `limit` characters, with a word on what is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} more characters left out]"


def display(*values, raw=False):
    """Shows values in the best of their forms; with `raw`, dictionaries of forms by MIME type."""
    for value in values:
        forms = bounded(dict(value)) if raw else forms_of(value)
        channel.send({"event": "display", "data": forms})


# --- Figures of matplotlib ------------------------------------------------------------------

def figure_forms(value):
    """The forms of a figure; None for anything else."""
    figures = sys.modules.get("matplotlib.figure")
    if figures is None or not isinstance(value, getattr(figures, "Figure", ())):
        return None
    import io
    import matplotlib
    chosen = matplotlib.rcParams["savefig.format"]
    mime = FIGURE_FORMS.get(chosen, "image/png")
    file = io.BytesIO()
    value.savefig(file, format=chosen if mime in FIGURE_FORMS.values() else "png",
                  bbox_inches="tight")
    drawn = file.getvalue()
    return {mime: drawn.decode() if mime == "image/svg+xml" else drawn}


def show_figures(*_, **__):
    """Displays and closes the figures that are open: what `plt.show()` does here."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    try:
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            # One without anything in it is not worth a picture.
            if figure.axes or figure.lines or figure.patches or figure.texts or figure.images:
                display(figure)
    finally:
        pyplot.close("all")


class ShowFigures:
    """Gives matplotlib.pyplot our `show` as soon as it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute_module = spec.loader.exec_module

            def exec_module(module):
                execute_module(module)
                module.show = show_figures
            spec.loader.exec_module = exec_module
        return spec


# --- Runs -----------------------------------------------------------------------------------

class Asynchronous:
    """The event loop in which `await` at the top level of a run waits; one for all runs."""

    def __init__(self):
        self.loop = None

    def finish(self, coroutine):
        import asyncio
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except (KeyboardInterrupt, SystemExit):
            if not task.done():
                task.cancel()
                try:
                    self.loop.run_until_complete(task)
                except asyncio.CancelledError:
                    pass
            raise


class Context:
    """The namespace, and what happens in it."""

    def __init__(self):
        self.main = types.ModuleType("__main__")
        vars(self.main).update(__builtins__=builtins, __annotations__={})
        sys.modules["__main__"] = self.main
        self.count = 0
        self.futures = 0
        self.asynchronous = Asynchronous()
        builtins.display = display

    def run(self, code):
        """One run, from `started` to what comes before `done`."""
        self.count += 1
        failure = None
        try:
            interrupt.armed = True
            channel.send({"event": "started", "execution_count": self.count})
            self.execute(code)
            show_figures()
        except BaseException as error:
            failure = error
        while True:
            # An interrupt may come until it no longer can.
            try:
                interrupt.armed = interrupt.pending = False
                break
            except KeyboardInterrupt as error:
                failure = failure or error
        if os.getpid() != PID:
            # A child the code forked has come to the end of the code: it is no context.
            for stream in sys.stdout, sys.stderr:
                flush(stream)
            os._exit(failure is not None)
        if failure is not None:
            self.report(failure)

    def execute(self, source):
        name = f"<run {self.count}>"
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = (len(source), None, lines, name)
        tree = ast.parse(source, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        if tree.body:
            self.evaluate(tree, name, "exec")
        if last is not None:
            value = self.evaluate(last, name, "eval")
            if value is not None:
                builtins._ = value
                if not source.rstrip().endswith(";"):
                    self.show(value)

    def evaluate(self, tree, name, mode):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self.futures
        code = compile(tree, name, mode, flags, dont_inherit=True)
        for flag in FUTURES:
            self.futures |= code.co_flags & flag
        value = eval(code, vars(self.main))
        if code.co_flags & inspect.CO_COROUTINE:
            value = self.asynchronous.finish(value)
        return value

    def show(self, value):
        forms = forms_of(value)
        channel.hold({"event": "result", "data": forms})
        if figure_is_open(value):
            sys.modules["matplotlib.pyplot"].close(value)

    def report(self, failure):
        """Tells how a run failed. The traceback has the frames of the code, and none of ours."""
        try:
            text = str(failure)
        except Exception:
            text = f"<unprintable {type(failure).__name__}>"
        try:
            frames = traceback.TracebackException(
                type(failure), failure, of_code(failure.__traceback__), compact=True)
            shown = "".join(frames.format())
        except Exception:
            shown = f"{type(failure).__name__}: {text}\n"
        channel.send({
            "event": "error",
            "name": type(failure).__name__,
            "value": cut(text, TRACEBACK_MAX),
            "traceback": cut(shown, TRACEBACK_MAX),
        })


def of_code(frames):
    """A traceback from the first frame of code that was run here on, without frames of ours."""
    while frames is not None and not CODE_NAME.match(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    kept = frames
    while kept is not None:
        while kept.tb_next is not None and is_ours(kept.tb_next):
            kept.tb_next = kept.tb_next.tb_next
        kept = kept.tb_next
    return frames


CODE_NAME = re.compile(r"<run \d+>\Z")


def is_ours(frame):
    return frame.tb_frame.f_code.co_filename == of_code.__code__.co_filename


def figure_is_open(value):
    """Whether the value is a figure that would be displayed at the end of the run once more."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    figures = sys.modules.get("matplotlib.figure")
    return (pyplot is not None and figures is not None
            and isinstance(value, figures.Figure)
            and getattr(value, "number", None) in pyplot.get_fignums())


def open_streams():
    """Output goes out line by line; input is at its end, and back there after `exit()`."""
    if sys.stdin is None or sys.stdin.closed:
        sys.stdin = sys.__stdin__ = open(0, closefd=False)
    for name in "stdout", "stderr":
        stream = getattr(sys, f"__{name}__")
        if stream is None or stream.closed:
            number = 1 if name == "stdout" else 2
            stream = open(number, "w", buffering=1, errors="backslashreplace", closefd=False)
            setattr(sys, f"__{name}__", stream)
            setattr(sys, name, stream)
        elif getattr(sys, name) is None or getattr(sys, name).closed:
            setattr(sys, name, stream)
        if getattr(stream, "errors", None) != "backslashreplace":
            # Any string can be printed, half a surrogate pair too.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def main():
    if sys.path:
        # Modules are looked for where the code is: in the working directory.
        sys.path[0] = ""
    sys.argv = [""]
    os.environ.setdefault("MPLBACKEND", "agg")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].show = show_figures
    else:
        sys.meta_path.insert(0, ShowFigures())
    os.register_at_fork(after_in_child=channel.close)
    signal.signal(signal.SIGINT, interrupt)
    context = Context()
    channel.send({"event": "ready"})
    while True:
        call = channel.receive()
        if call is None:
            return
        open_streams()
        context.run(call["code"])
        channel.send({"event": "done", "execution_count": context.count})


PID = os.getpid()
interrupt = Interrupt()
channel = Channel()
open_streams()
main()
