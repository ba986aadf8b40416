"""Notebook syntax that is not Python: `!command`, `%magic`, `%%magic`, `name?`.

If code does not parse, such lines are searched for outside of strings and brackets. Each becomes a
call of `__magic__` on its own line, so that line numbers do not change. A magic that is not
supported fails with a message that says what to write instead.
"""

import ast
import builtins
import importlib
import inspect
import io
import os
import re
import resource
import runpy
import shlex
import subprocess
import sys
import time
import timeit
import types
from contextlib import redirect_stderr, redirect_stdout

ASSIGNED = re.compile(r"(\s*)([^\W\d][\w.,\s*\[\]'\"]*?=)(?!=)\s*(%(?!%)|!)(.+)", re.S)
HELP = re.compile(r"\s*(?:(\?\??)\s*([\w.%]+)|(%{0,2}[\w.]+)\s*(\?\??))\s*;?\s*$")
CELL = re.compile(r"\s*%%(\w+)[ \t]*(.*)")
STRING = re.compile(r"'''|\"\"\"|'|\"")
# Shell commands that are also magics.
ALIASES = {"cat", "conda", "cp", "ls", "ll", "mkdir", "mv", "rm", "rmdir", "uv"}
# Words that begin a magic without `%`, in a line that is not Python.
BARE = ALIASES | {"cd", "env", "pip", "pwd", "run", "time", "timeit", "who", "whos"}
# What to write instead of unsupported magics.
INSTEAD = {
    "aimport": "importlib.reload(module)",
    "alias": "a function",
    "autoreload": "importlib.reload(module) after changing the module",
    "cython": "cython.inline(), or a separate module",
    "debug": "print(), because a debugger could not read commands here",
    "edit": "the file API, or %%writefile",
    "js": "a JavaScript context", "javascript": "a JavaScript context",
    "load": "exec(open(file).read())",
    "load_ext": "import the module; for autoreload, importlib.reload(module)",
    "lprun": "cProfile.run(code)",
    "memit": "tracemalloc",
    "mprun": "tracemalloc",
    "pdb": "print(), because a debugger could not read commands here",
    "perl": "%%script perl",
    "prun": "cProfile.run(code)",
    "pylab": "import numpy as np, matplotlib.pyplot as plt",
    "R": "an R process",
    "sql": "a library, such as sqlite3",
    "store": "pickle, into a file",
    "tb": "traceback.print_exc() in the run that fails",
    "xmode": "traceback.print_exc()",
}
# Magics that change the look of a front end, which have no effect here.
IGNORED = {"automagic", "colors", "matplotlib", "pprint"}
FIGURES = {"svg": "svg", "jpeg": "jpg", "jpg": "jpg", "png": "png", "retina": "png",
           "png2x": "png"}
UNITS = [(1, "s"), (1e-3, "ms"), (1e-6, "μs"), (1e-9, "ns")]


class UsageError(Exception):
    """A magic that is not supported, or is used incorrectly."""

    __module__ = "builtins"


class Lines(list):
    """The output lines of a command; `n` joins them with newlines, `s` with spaces."""

    n = property("\n".join)
    s = property(" ".join)
    l = property(list)  # noqa: E741


# --- Parsing -------------------------------------------------------------------------------

def replaced(source, is_known):
    """Returns the code with its magics replaced by calls; None if it has none."""
    cell = CELL.match(source)
    if cell and not source.strip().endswith("?"):
        body = source[cell.end():].removeprefix("\r").removeprefix("\n")
        return "\n" * source[:cell.start(1)].count("\n") + call("cell", cell[1], cell[2], body)
    lines = source.split("\n")
    if len(source.strip().split("\n")) == 1:
        word = re.match(r"\s*(\w+)(?=\s+[^\s=(.\[,:]|\s*$)", source)
        if word and word[1] in BARE and not is_known(word[1]):
            return call("line", *split(source))
    found, at = False, 0
    state = State()
    while at < len(lines):
        line, count = lines[at], 1
        if not state.is_inside:
            while line.endswith("\\") and at + count < len(lines) and is_magic(line):
                line = line[:-1] + lines[at + count]
                count += 1
            python = of_line(line)
            if python is not None:
                found = True
                lines[at:at + count] = [python] + [""] * (count - 1)
                at += count
                continue
        state.take(lines[at])
        at += 1
    return "\n".join(lines) if found else None


def is_magic(line):
    return line.lstrip()[:1] in ("!", "%") or ASSIGNED.match(line) is not None


def of_line(line):
    """Converts the first line of a statement to Python; None if it is not a magic."""
    indent = line[:len(line) - len(line.lstrip())]
    text = line.strip()
    asked = HELP.match(line)
    if asked:
        mark, name = (asked[1], asked[2]) if asked[1] else (asked[4], asked[3])
        return indent + call("help", name, mark)
    if text.startswith("!!"):
        return indent + call("taken", text[2:])
    if text.startswith("!"):
        return indent + call("shell", text[1:])
    if text.startswith("%") and text[1:2].isalpha():
        return indent + call("line", *split(text[1:]))
    assigned = ASSIGNED.match(line)
    if assigned and not is_python(line):
        target, mark, rest = assigned[2], assigned[3], assigned[4].strip()
        value = call("taken", rest) if mark == "!" else call("line", *split(rest))
        return f"{indent}{target} {value}"
    return None


def is_python(line):
    try:
        ast.parse(line.strip())
    except SyntaxError:
        return False
    return True


def split(text):
    name, _, rest = text.strip().partition(" ")
    return name, rest.strip()


def call(kind, *words):
    return f"__magic__.{kind}({', '.join(map(repr, words))})"


class State:
    """Tracks whether the next line begins a statement, or is inside a string or brackets."""

    def __init__(self):
        self.quote = None
        self.depth = 0
        self.is_continued = False

    @property
    def is_inside(self):
        return self.quote is not None or self.depth > 0 or self.is_continued

    def take(self, line):
        at = 0
        while at < len(line):
            character = line[at]
            if self.quote is not None:
                if character == "\\":
                    at += 1
                elif line.startswith(self.quote, at):
                    at += len(self.quote) - 1
                    self.quote = None
            elif character == "#":
                self.is_continued = False
                return
            elif character in "'\"":
                self.quote = STRING.match(line, at)[0]
                at += len(self.quote) - 1
            elif character in "([{":
                self.depth += 1
            elif character in ")]}":
                self.depth = max(0, self.depth - 1)
            at += 1
        self.is_continued = line.endswith("\\")
        if self.quote is not None and len(self.quote) == 1 and not self.is_continued:
            self.quote = None  # it should have ended


# --- Execution ------------------------------------------------------------------------------

class Magics:
    """The value of `__magic__`. Methods `do_*` are line magics, and `cell_*` are cell magics."""

    def __init__(self, context):
        self.context = context
        self.names = vars(context.main)
        self.place = None

    def replaced(self, source):
        return replaced(source, lambda name: name in self.names or hasattr(builtins, name))

    def line(self, name, rest=""):
        if name in IGNORED:
            return None
        if name in ALIASES:
            return self.shell(f"{'ls -l' if name == 'll' else name} {rest}")
        return self.find("do_", name, f"%{name}")(self.expanded(rest))

    def cell(self, name, rest, body):
        return self.find("cell_", name, f"%%{name}")(rest, body)

    def find(self, kind, name, shown):
        method = getattr(self, kind + name, None)
        if method is not None:
            return method
        other = "cell_" if kind == "do_" else "do_"
        if hasattr(self, other + name):
            shown_other = "%" * (2 if kind == "do_" else 1) + name
            raise UsageError(f"{shown} is not supported, but {shown_other} is")
        instead = INSTEAD.get(name)
        hint = f"; write instead: {instead}" if instead else \
            "; %lsmagic lists the supported ones, and !command runs a command"
        raise UsageError(f"the magic {shown} is not supported{hint}")

    def expanded(self, text):
        """Returns the text with `{expression}` and `$name` replaced by their values, if any."""
        def value(found):
            if found[0] == "$$":
                return "$"
            if found[1] is not None:
                return str(eval(found[1], self.names))
            return str(self.names[found[2]]) if found[2] in self.names else found[0]
        try:
            return re.sub(r"\$\$|(?<!\$)\{([^{}]+)\}|\$([^\W\d]\w*)", value, text)
        except Exception:
            return text

    # --- Commands

    def shell(self, command):
        """`!command`: prints the output of the command."""
        self.names["_exit_code"] = self.run_command(self.shell_words(self.expanded(command)))

    def taken(self, command):
        """`x = !command`: returns the output as a list of lines."""
        done = subprocess.run(self.shell_words(self.expanded(command)), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        self.names["_exit_code"] = done.returncode
        return Lines(done.stdout.decode("utf-8", "replace").splitlines())

    def shell_words(self, command):
        return ["/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh", "-c", command]

    def run_command(self, words, given=None):
        """Runs a command and returns its exit code. Its output goes to Python's own streams."""
        if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
            done = subprocess.run(words, input=given, check=False)
        else:
            done = subprocess.run(words, input=given, capture_output=True, check=False)
            sys.stdout.write(done.stdout.decode("utf-8", "replace"))
            sys.stderr.write(done.stderr.decode("utf-8", "replace"))
        importlib.invalidate_caches()
        return done.returncode

    def do_pip(self, rest):
        code = self.run_command([sys.executable, "-m", "pip", *shlex.split(rest)])
        if code:
            raise UsageError(f"pip ended with exit code {code}")

    def do_system(self, rest):
        return self.taken(rest)

    do_sx = do_system

    def cell_bash(self, rest, body):
        return self.cell_script(f"bash {rest}", body)

    def cell_sh(self, rest, body):
        return self.cell_script(f"sh {rest}", body)

    def cell_python3(self, rest, body):
        return self.cell_script(f"{sys.executable} - {rest}", body)

    cell_python = cell_python3

    def cell_script(self, rest, body):
        words = shlex.split(rest)
        raises = "--no-raise-error" not in words
        words = [word for word in words if word != "--no-raise-error"]
        if not words:
            raise UsageError("%%script needs a program that runs the cell")
        code = self.run_command(words, body.encode("utf-8", "replace"))
        if code and raises:
            raise subprocess.CalledProcessError(code, words)

    # --- Directories and the environment

    def do_cd(self, rest):
        words = shlex.split(rest)
        target = words[-1] if words else "~"
        if target == "-":
            if self.place is None:
                raise UsageError("%cd -: there is no previous directory")
            target = self.place
        before = os.getcwd()
        os.chdir(os.path.expanduser(target))
        self.place = before
        if "-q" not in words:
            print(os.getcwd())

    def do_pwd(self, _):
        return os.getcwd()

    def do_env(self, rest):
        if not rest:
            return dict(os.environ)
        name, equals, value = rest.partition("=")
        if not equals:
            name, _, value = rest.partition(" ")
            if not value:
                if name not in os.environ:
                    raise UsageError(f"there is no environment variable {name}")
                return os.environ[name]
        self.do_set_env(f"{name.strip()}={value.strip()}")

    def do_set_env(self, rest):
        name, _, value = rest.partition("=" if "=" in rest else " ")
        os.environ[name.strip()] = value.strip()
        print(f"env: {name.strip()}={value.strip()}")

    def cell_writefile(self, rest, body):
        words = shlex.split(rest)
        append = "-a" in words or "--append" in words
        names = [word for word in words if not word.startswith("-")]
        if len(names) != 1:
            raise UsageError("%%writefile needs one file name; -a appends to the file")
        path = os.path.expanduser(self.expanded(names[0]))
        done = "Appending to" if append else "Overwriting" if os.path.exists(path) else "Writing"
        with open(path, "a" if append else "w", encoding="utf-8") as file:
            file.write(body if body.endswith("\n") or not body else body + "\n")
        print(f"{done} {path}")

    cell_file = cell_writefile

    # --- Times

    def do_time(self, rest):
        if not rest.strip():
            raise UsageError("%time needs code on the same line")
        return self.timed(rest)

    def cell_time(self, rest, body):
        return self.timed(f"{rest}\n{body}" if rest else body)

    def timed(self, code):
        began, since = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        try:
            return self.context.nested(code)
        finally:
            wall, used = time.perf_counter() - since, resource.getrusage(resource.RUSAGE_SELF)
            user, system = used.ru_utime - began.ru_utime, used.ru_stime - began.ru_stime
            print(f"CPU times: user {span(user)}, sys: {span(system)}, "
                  f"total: {span(user + system)}\nWall time: {span(wall)}")

    def do_timeit(self, rest, body=""):
        number, repeat, quiet, output = 0, 7, False, False
        while option := re.match(r"-([nr])\s*(\d+)\s*|-([qo])\s+", rest):
            if option[1] == "n":
                number = int(option[2])
            elif option[1] == "r":
                repeat = int(option[2])
            quiet, output = quiet or option[3] == "q", output or option[3] == "o"
            rest = rest[option.end():]
        code, setup = (body, rest or "pass") if body else (rest, "pass")
        if not code.strip():
            raise UsageError("%timeit needs code on the same line")
        timer = timeit.Timer(code, setup, globals=self.names)
        number = number or timer.autorange()[0]
        times = [seconds / number for seconds in timer.repeat(max(1, repeat), number)]
        mean = sum(times) / len(times)
        spread = (sum((seconds - mean) ** 2 for seconds in times) / len(times)) ** 0.5
        if not quiet:
            print(f"{span(mean)} ± {span(spread)} per loop (mean ± std. dev. of {len(times)} "
                  f"run{'s' * (len(times) != 1)}, {number:,} loop{'s' * (number != 1)} each)")
        if not output:
            return None
        return types.SimpleNamespace(average=mean, stdev=spread, best=min(times), worst=max(times),
                                     all_runs=times, loops=number, repeat=repeat)

    def cell_timeit(self, rest, body):
        return self.do_timeit(rest, body)

    # --- Code

    def do_run(self, rest):
        words = shlex.split(rest)
        within = "-i" in words[:1]
        words = words[within:]
        if not words:
            raise UsageError("%run needs a file")
        path = os.path.expanduser(words[0])
        if not os.path.exists(path) and os.path.exists(f"{path}.py"):
            path += ".py"
        arguments = sys.argv
        sys.argv = [path, *words[1:]]
        try:
            found = runpy.run_path(path, self.names if within else None, "__main__")
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
            return
        finally:
            sys.argv = arguments
        self.names.update((name, value) for name, value in found.items()
                          if not name.startswith("__"))

    def cell_capture(self, rest, body):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            self.context.nested(body)
        name = next((word for word in rest.split() if not word.startswith("-")), None)
        if name is not None:
            self.names[name] = Captured(out.getvalue(), err.getvalue())

    def shown_as(mime):  # noqa: N805
        def show(self, _, body):
            builtins.display({mime: body, "text/plain": body}, raw=True)
        return show

    cell_html, cell_HTML = shown_as("text/html"), shown_as("text/html")
    cell_markdown, cell_latex = shown_as("text/markdown"), shown_as("text/latex")
    cell_svg, cell_SVG = shown_as("image/svg+xml"), shown_as("image/svg+xml")
    del shown_as

    # --- The namespace

    def own_names(self):
        return [name for name in sorted(self.names) if not name.startswith("_")]

    def do_who(self, _):
        print("\t ".join(self.own_names()) or "Interactive namespace is empty.")

    def do_who_ls(self, _):
        return self.own_names()

    def do_whos(self, _):
        names = self.own_names()
        if not names:
            print("Interactive namespace is empty.")
            return
        rows = [("Variable", "Type", "Data/Info")]
        for name in names:
            value = self.names[name]
            try:
                shown = " ".join(repr(value).split())[:60]
            except Exception as error:
                shown = f"<{type(error).__name__}>"
            rows.append((name, type(value).__name__, shown))
        first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
        for row in rows:
            print(f"{row[0]:<{first}}   {row[1]:<{second}}   {row[2]}".rstrip())

    def do_reset(self, _):
        for name in [*self.names]:
            if not (name.startswith("__") and name.endswith("__")):
                del self.names[name]

    def do_history(self, _):
        for source in self.context.sources():
            print(source)

    do_hist = do_history

    def do_config(self, rest):
        name, _, value = rest.partition("=")
        kind = value.strip(" {}'\"")
        if name.strip() == "InlineBackend.figure_format" and kind in FIGURES:
            import matplotlib
            matplotlib.rcParams["savefig.format"] = FIGURES[kind]
        elif not name.strip().startswith("InlineBackend."):
            raise UsageError("%config supports only InlineBackend.figure_format")

    def do_lsmagic(self, _):
        for kind, mark in ("do_", "%"), ("cell_", "%%"):
            names = {name.removeprefix(kind) for name in dir(self) if name.startswith(kind)}
            names |= (ALIASES | IGNORED) if kind == "do_" else set()
            print(" ".join(mark + name for name in sorted(names)))

    def do_pinfo(self, rest):
        self.help(rest, "?")

    def do_pinfo2(self, rest):
        self.help(rest, "??")

    do_pdoc, do_psource = do_pinfo, do_pinfo2

    def help(self, name, mark="?"):
        """`name?`, and with its source `name??`."""
        if name.startswith("%"):
            raise UsageError("%lsmagic lists the supported magics")
        try:
            value = eval(name, self.names)
        except Exception:
            print(f"Object `{name}` not found.")
            return
        try:
            print(f"Signature: {name}{inspect.signature(value)}")
        except (TypeError, ValueError):
            print(f"Type:      {type(value).__name__}\nString form: {value}")
        source = None
        if mark == "??":
            try:
                source = inspect.getsource(value)
            except (OSError, TypeError):
                pass  # not written in Python, or not in a file
        if source is not None:
            print(f"Source:\n{source.rstrip()}")
        else:
            print(f"Docstring: {inspect.getdoc(value) or '<no docstring>'}")


class Captured:
    """The output that `%%capture name` captured."""

    def __init__(self, stdout, stderr):
        self.stdout, self.stderr = stdout, stderr

    def __call__(self):
        self.show()

    def show(self):
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)

    def __str__(self):
        return self.stdout


def span(seconds):
    """Formats a duration in a suitable unit."""
    if seconds >= 60:
        return f"{int(seconds // 60)}min {seconds % 60:.0f}s"
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds >= scale), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"
