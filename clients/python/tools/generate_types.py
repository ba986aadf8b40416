"""Writes `src/emberd/types.py` from the frozen OpenAPI document.

    generate_types.py          writes the file
    generate_types.py --check  fails where the file is not what it would write

Objects become `TypedDict`s, words become `Literal`s. An `allOf` is flattened, and distributed over a
union in it: a type checker tells the members of a union apart by their `Literal` field.
"""

import json
import keyword
import pathlib
import sys
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parents[2] / "crates/emberd/tests/it/api/openapi.json"
TARGET = HERE.parent / "src/emberd/types.py"

HEAD = '''"""Shapes of the API's bodies and events, as the OpenAPI document names them.

Written by `tools/generate_types.py`. A field that is not required may be absent, and a newer daemon
may send fields and events that are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from typing_extensions import NotRequired
'''

PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
COLUMNS = 100


def target(schema):
    """Name of the schema that this one refers to, if it only refers."""
    return schema.get("$ref", "").rpartition("/")[2]


class Types:
    """The declarations, in the order in which they can be evaluated."""

    def __init__(self, schemas):
        self.schemas = schemas
        self.text = {}

    def declare(self, name):
        if name in self.text:
            return
        self.text[name] = ""  # Not again, if it refers to itself.
        schema = self.schemas[name]
        members = self.members(schema)
        if members is not None:
            self.union(name, schema, members)
        elif "enum" in schema:
            words = ", ".join(json.dumps(word) for word in schema["enum"])
            self.alias(name, f"Literal[{words}]", schema)
        elif schema.get("type") == "object" and "properties" in schema or "allOf" in schema:
            self.record(name, schema)
        else:
            self.alias(name, self.expression(schema), schema)

    def members(self, schema):
        """The alternatives of a union; `allOf` with one union in it is a union."""
        if "oneOf" in schema:
            return schema["oneOf"]
        for part in schema.get("allOf", []):
            inner = self.members(self.schemas.get(target(part), part))
            if inner is not None:
                rest = [other for other in schema["allOf"] if other is not part]
                return [{**self.resolved(one), "allOf": [one, *rest]} for one in inner]
        return None

    def resolved(self, schema):
        return self.schemas[target(schema)] if "$ref" in schema else schema

    def union(self, name, schema, members):
        names = []
        for member in members:
            if "properties" in member or "allOf" in member:
                names.append(name + self.word(member))
                self.record(names[-1], member)
            else:
                names.append(self.expression(member))
        quoted = (f'"{one}"' if one in self.schemas or one in self.text else one for one in names)
        self.alias(name, f"Union[{', '.join(quoted)}]", schema)

    def word(self, schema):
        """What the name of a member ends with: the one word of a field, or its first field."""
        fields = self.fields(schema)
        words = [inner["enum"][0] for inner, _ in fields.values() if len(inner.get("enum", [])) == 1]
        return "".join(part.capitalize() for part in (words or [*fields])[0].split("_"))

    def fields(self, schema):
        """All fields of an object, with those of the parts of an `allOf`: name, schema, required."""
        schema = self.resolved(schema)
        found = {}
        for part in schema.get("allOf", []):
            for name, (inner, required) in self.fields(part).items():
                found[name] = (inner, required)
        for name, inner in schema.get("properties", {}).items():
            found[name] = (inner, name in schema.get("required", []))
        return found

    def record(self, name, schema):
        lines = [f"class {name}(TypedDict):", *docstring(schema.get("description"))]
        fields = self.fields(schema)
        kinds = {key: self.hint(inner, required) for key, (inner, required) in fields.items()}
        if any(keyword.iskeyword(key) for key in fields):
            inside = "".join(f'    "{key}": "{kind}",\n' for key, kind in kinds.items())
            self.text[name] = f'{name} = TypedDict("{name}", {{\n{inside}}})\n'
            return
        for key, kind in kinds.items():
            lines += wrapped(f"    {key}: {kind}"), *docstring(fields[key][0].get("description"))
        if not fields:
            lines.append("    pass")
        self.text[name] = "\n".join(lines) + "\n"

    def alias(self, name, expression, schema):
        note = schema.get("description", "")
        lines = [f"#: {line}" for line in folded(note, COLUMNS - 4)]
        self.text[name] = "\n".join([*lines, wrapped(f"{name} = {expression}")]) + "\n"

    def hint(self, schema, required):
        kind = self.expression(schema)
        return kind if required else f"NotRequired[{kind}]"

    def expression(self, schema):
        if "$ref" in schema:
            return target(schema)
        if "oneOf" in schema:
            return " | ".join(self.expression(one) for one in schema["oneOf"])
        if "enum" in schema:
            return f"Literal[{', '.join(json.dumps(word) for word in schema['enum'])}]"
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        found = [self.simple(schema, kind) for kind in kinds]
        return " | ".join(found) or "Any"

    def simple(self, schema, kind):
        if kind == "array":
            return f"list[{self.expression(schema['items'])}]"
        if kind == "object":
            value = schema.get("additionalProperties")
            return f"dict[str, {self.expression(value) if isinstance(value, dict) else 'Any'}]"
        return PLAIN[kind]


def folded(text, columns):
    flat = " ".join((text or "").split())
    return textwrap.wrap(flat, columns, break_long_words=False, break_on_hyphens=False)


def docstring(text, indent="    "):
    lines = folded((text or "").replace("\\", "\\\\"), COLUMNS - 12)
    if not lines:
        return []
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""{lines[0]}', *(indent + line for line in lines[1:]), f'{indent}"""']


def wrapped(line):
    """The line, with the parts of its brackets on lines of their own where it is too long."""
    if len(line) <= COLUMNS or "[" not in line:
        return line
    start, _, rest = line.partition("[")
    indent = " " * (len(start) - len(start.lstrip()) + 4)
    inner = textwrap.wrap(rest[: rest.rindex("]")], COLUMNS - len(indent), break_on_hyphens=False)
    return "\n".join([f"{start}[", *(indent + part for part in inner), f"{indent[4:]}]"])


def generate():
    document = json.loads(DOCUMENT.read_text())
    types = Types(document["components"]["schemas"])
    for name in sorted(types.schemas):
        types.declare(name)
    return "\n\n".join([HEAD, *types.text.values()])


def main():
    text = generate()
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text() != text:
            sys.exit(f"error: {TARGET} is not of this OpenAPI document\nhint: run {__file__}")
    else:
        TARGET.write_text(text)


if __name__ == "__main__":
    main()
