"""What a context shows of a value: its forms by MIME type, as lines of JSON can carry them.

A value is not taken at its word: whatever its methods raise or return, the other forms are shown.
"""

import base64
import io
import json
import re
import sys
import traceback
import types

# The largest form of one value, and all forms of it together, in bytes: the host takes lines of
# 32 MiB.
FORM_BYTES_MAX = 8 << 20
EVENT_BYTES_MAX = 24 << 20
# Most bytes that a character of JSON takes: the escape of a control character.
CHARACTER_BYTES_MAX = 6
# How deep a form may nest: readers of JSON have limits.
JSON_DEPTH_MAX = 100
# What a value has to show for itself, beside its repr(), and what the method is to return.
FORMS = {
    "text/html": ("_repr_html_", str),
    "text/markdown": ("_repr_markdown_", str),
    "image/svg+xml": ("_repr_svg_", str),
    "image/png": ("_repr_png_", (bytes, str)),
    "image/jpeg": ("_repr_jpeg_", (bytes, str)),
    "text/latex": ("_repr_latex_", str),
    "application/json": ("_repr_json_", (dict, list, str, int, float)),
}
# A method that nobody has. Whoever has it has every method, and means none.
CANARY = "_ipython_canary_method_should_not_exist_"
# Values of these very types have nothing but their repr() to show.
PLAIN = {bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple}
# Formats of `savefig.format` in matplotlib's settings, beside png.
FIGURE_FORMS = {"svg": "image/svg+xml", "jpg": "image/jpeg", "jpeg": "image/jpeg"}


ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def line_of(event):
    # Half a surrogate pair is no Unicode: it becomes a question mark.
    return (ENCODER.encode(event) + "\n").encode("utf-8", "replace")


def forms_of(value):
    """The value in each of its forms, by MIME type. Fails if it has none."""
    if type(value) in PLAIN:
        return bounded({"text/plain": repr(value)})
    own = figure_forms(value) or own_forms(value)
    if "text/plain" not in own:
        try:
            own["text/plain"] = repr(value)
        except Exception as error:
            if not own:
                raise
            complain(value, "__repr__", error)
    return bounded(own)


def own_forms(value):
    """What the value's own methods show."""
    bundle = asked(value, "_repr_mimebundle_", dict, include=None, exclude=None) or {}
    own = {mime: form for mime, form in bundle.items()
           if isinstance(mime, str) and form is not None}
    for mime, (method, kinds) in FORMS.items():
        if mime not in own:
            form = asked(value, method, kinds)
            if form is not None:
                own[mime] = form
    return own


def method_of(value, name):
    """A method by which the value shows itself, if it is meant: a proxy has every attribute, and
    a class has those that are its values'."""
    try:
        if getattr(value, CANARY, None) is not None:
            return None
        method = getattr(value, name, None)
        if isinstance(value, type) and not isinstance(method, types.MethodType):
            return None
        return method if callable(method) else None
    except Exception:
        return None


def asked(value, name, kinds, **arguments):
    """What the value's own method shows; None if it has none, fails, or returns something odd."""
    method = method_of(value, name)
    if method is None:
        return None
    try:
        shown = method(**arguments)
        if isinstance(shown, tuple) and shown:
            shown = shown[0]
        if shown is not None and not isinstance(shown, kinds):
            raise TypeError(f"it returned {name_of(type(shown))}")
        return shown
    except NotImplementedError:
        return None
    except Exception as error:
        complain(value, name, error)
        return None


def complain(value, method, error):
    """Says on standard error how a method failed that shows a value."""
    told = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    print(f"{name_of(type(value))}.{method}: {told}", end="", file=sys.stderr)


def name_of(kind):
    """The name of a class, whatever its metaclass says."""
    return type.__dict__["__name__"].__get__(kind)


def bounded(forms):
    """The forms as JSON can carry them, within the limits; what is left out is said."""
    kept, notes, total = {}, [], 0
    for mime, form in sorted(forms.items(), key=lambda item: item[0] != "text/plain"):
        if isinstance(form, (bytes, bytearray, memoryview)):
            form = base64.b64encode(form).decode()
        elif mime.endswith("json") and not isinstance(form, str):
            try:
                text = json.dumps(form, allow_nan=False)
                form = json.loads(text) if is_shallow(text) else ValueError("it nests too deep")
            except (RecursionError, TypeError, ValueError) as error:
                form = error
            if isinstance(form, Exception):
                notes.append(f"{mime} left out: {form}")
                continue
        else:
            # A string of a class of its own is one to Python only.
            form = str.__str__(form) if isinstance(form, str) else str(form)
        if mime == "text/plain":
            form = cut(form, FORM_BYTES_MAX // 8)
        size = size_of(form)
        if size > FORM_BYTES_MAX or total + size > EVENT_BYTES_MAX:
            notes.append(f"{mime} left out: it has {size} bytes, "
                         f"over the limit of {FORM_BYTES_MAX}")
            continue
        total += size
        kept[mime] = form
    if notes:
        kept["text/plain"] = "\n".join([kept.get("text/plain", ""), *map("[{}]".format, notes)])
    return kept


def size_of(form):
    """How many bytes of a line it takes; a guess for what is small in any case."""
    if isinstance(form, str) and len(form) < FORM_BYTES_MAX // CHARACTER_BYTES_MAX:
        return len(form)
    return len(line_of(form))


def is_shallow(text):
    """Whether JSON nests no deeper than it may."""
    depth = 0
    for bracket in re.finditer(r'"(?:[^"\\]|\\.)*"|[][{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if depth > JSON_DEPTH_MAX:
            return False
    return True


def cut(text, limit):
    """Text of at most `limit` characters, with a word on what is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} more characters left out]"


def shows_itself(value):
    """Whether the value has a method that displays it, which is called."""
    method = None if type(value) in PLAIN else method_of(value, "_ipython_display_")
    if method is None:
        return False
    try:
        method()
    except NotImplementedError:
        return False
    except Exception as error:
        complain(value, "_ipython_display_", error)
        return False
    return True


# --- Figures of matplotlib ------------------------------------------------------------------

def figure_forms(value):
    """The forms of a figure; None for anything else."""
    figures = sys.modules.get("matplotlib.figure")
    if figures is None or not issubclass(type(value), getattr(figures, "Figure", ())):
        return None
    import matplotlib
    chosen = matplotlib.rcParams["savefig.format"]
    mime = FIGURE_FORMS.get(chosen, "image/png")
    file = io.BytesIO()
    value.savefig(file, format=chosen if mime in FIGURE_FORMS.values() else "png",
                  bbox_inches="tight")
    drawn = file.getvalue()
    return {mime: drawn.decode() if mime == "image/svg+xml" else drawn}


def figure_is_open(value):
    """Whether the value is a figure that would be displayed at the end of the run once more."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    figures = sys.modules.get("matplotlib.figure")
    return (pyplot is not None and figures is not None
            and issubclass(type(value), getattr(figures, "Figure", ()))
            and getattr(value, "number", None) in pyplot.get_fignums())
