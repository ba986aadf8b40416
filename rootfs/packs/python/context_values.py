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

# Maximum size of one form of a value, and of all its forms, in bytes: the host accepts lines of
# 32 MiB.
FORM_BYTES_MAX = 8 << 20
EVENT_BYTES_MAX = 24 << 20
# Maximum number of bytes of a character in JSON: the escape of a control character.
CHARACTER_BYTES_MAX = 6
# Maximum depth of a form, because JSON readers have limits.
JSON_DEPTH_MAX = 100
# Methods that show a value, beside repr(), with the types that they return.
FORMS = {
    "text/html": ("_repr_html_", str),
    "text/markdown": ("_repr_markdown_", str),
    "image/svg+xml": ("_repr_svg_", str),
    "image/png": ("_repr_png_", (bytes, str)),
    "image/jpeg": ("_repr_jpeg_", (bytes, str)),
    "text/latex": ("_repr_latex_", str),
    "application/json": ("_repr_json_", (dict, list, str, int, float)),
}
# A method that does not exist. An object that has it answers to every name, such as a proxy.
CANARY = "_ipython_canary_method_should_not_exist_"
# Values of exactly these types have only a repr().
PLAIN = {bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple}
# Values of `savefig.format` in matplotlib's settings, besides png.
FIGURE_FORMS = {"svg": "image/svg+xml", "jpg": "image/jpeg", "jpeg": "image/jpeg"}
# Fewest dots per inch of a figure that is drawn again because it is too large, and by how much the
# estimate of them is lowered, because a smaller image is compressed less.
DPI_MIN = 20
DPI_MARGIN = 0.9

# Maximum size of an image of a figure in the present run, in bytes; None without a limit.
image_bytes_max = None


ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def line_of(event):
    # An unpaired surrogate is not valid Unicode, and becomes a question mark.
    return (ENCODER.encode(event) + "\n").encode("utf-8", "replace")


def forms_of(value):
    """Returns the forms of a value, by MIME type. Fails if it has none."""
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
    """Returns the forms from the value's own methods."""
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
    """Returns a method that shows the value. Ignores proxies, which have every attribute, and
    classes, whose methods are for their instances."""
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
    """Returns the form from the value's method; None if that is missing, fails or is invalid."""
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
    """Reports on standard error the failure of a method that shows a value."""
    told = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    print(f"{name_of(type(value))}.{method}: {told}", end="", file=sys.stderr)


def name_of(kind):
    """Returns the name of a class, regardless of its metaclass."""
    return type.__dict__["__name__"].__get__(kind)


def bounded(forms):
    """Returns the forms that JSON can represent within the limits, and notes on omitted ones."""
    kept, notes, total = {}, [], 0
    for mime, form in sorted(forms.items(), key=lambda item: item[0] != "text/plain"):
        if isinstance(form, (bytes, bytearray, memoryview)):
            form = base64.b64encode(form).decode()
        elif mime.endswith("json") and not isinstance(form, str):
            try:
                text = json.dumps(form, allow_nan=False)
                form = json.loads(text) if is_shallow(text) else ValueError("it is nested too deep")
            except (RecursionError, TypeError, ValueError) as error:
                form = error
            if isinstance(form, Exception):
                notes.append(f"{mime} left out: {form}")
                continue
        else:
            # A subclass of str is a string in Python only.
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
    """Returns the size of a form in a line, in bytes; an estimate for small forms."""
    if isinstance(form, str) and len(form) < FORM_BYTES_MAX // CHARACTER_BYTES_MAX:
        return len(form)
    return len(line_of(form))


def is_shallow(text):
    """Returns whether the depth of JSON is within the limit."""
    depth = 0
    for bracket in re.finditer(r'"(?:[^"\\]|\\.)*"|[][{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if depth > JSON_DEPTH_MAX:
            return False
    return True


def cut(text, limit):
    """Cuts text after `limit` characters, with a note on how much is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} more characters left out]"


def shows_itself(value):
    """Calls the method with which the value displays itself; returns whether there is one."""
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
    """Returns the forms of a figure; None for other values."""
    figures = sys.modules.get("matplotlib.figure")
    if figures is None or not issubclass(type(value), getattr(figures, "Figure", ())):
        return None
    import matplotlib
    chosen = matplotlib.rcParams["savefig.format"]
    mime = FIGURE_FORMS.get(chosen, "image/png")
    form = chosen if mime in FIGURE_FORMS.values() else "png"
    drawn = draw(value, form)
    if mime == "image/svg+xml":
        return {mime: drawn.decode()}
    if image_bytes_max is None or len(drawn) <= image_bytes_max:
        return {mime: drawn}
    return draw_smaller(value, form, mime, drawn)


def draw(figure, form, **options):
    """Returns a figure as an image."""
    file = io.BytesIO()
    figure.savefig(file, format=form, bbox_inches="tight", **options)
    return file.getvalue()


def draw_smaller(figure, form, mime, drawn):
    """Draws a figure with fewer dots per inch, until the image fits or has the fewest. Returns its
    forms, of which the text says so."""
    import matplotlib
    dpi = first = matplotlib.rcParams.get("savefig.dpi", "figure")
    if dpi == "figure":
        dpi = first = figure.dpi
    size = len(drawn)
    while len(drawn) > image_bytes_max and dpi > DPI_MIN:
        # The size grows with the number of dots.
        dpi = max(DPI_MIN, dpi * (image_bytes_max / len(drawn)) ** 0.5 * DPI_MARGIN)
        drawn = draw(figure, form, dpi=dpi)
    note = f"[{mime} drawn at {dpi:.0f} dpi in place of {first:.0f}, at which it has {size} bytes"
    if len(drawn) > image_bytes_max:
        note += f"; it still has {len(drawn)}, over the limit of {image_bytes_max}"
    return {mime: drawn, "text/plain": f"{figure!r}\n{note}]"}


def figure_is_open(value):
    """Returns whether the value is a figure that will be displayed at the end of the run anyway."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    figures = sys.modules.get("matplotlib.figure")
    return (pyplot is not None and figures is not None
            and issubclass(type(value), getattr(figures, "Figure", ()))
            and getattr(value, "number", None) in pyplot.get_fignums())
