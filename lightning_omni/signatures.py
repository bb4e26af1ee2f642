"""Read options from source code without importing it, so that help appears at once."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PLAIN = {"str": "TEXT", "int": "INT", "float": "FLOAT", "bool": "true|false", "Path": "PATH"}
_ARGS_HEADING = re.compile(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n)*)", re.MULTILINE)
_ARG = re.compile(r"^    (\w+): (.*(?:\n(?:     .*|\s*$))*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a verb.

    Attributes:
        name: name without dashes.
        kind: values it takes, in words.
        default: default as source code; None for a required option.
        note: description from the docstring.
    """

    name: str
    kind: str
    default: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's or class's first docstring paragraph and its options."""

    summary: str
    options: tuple[Option, ...]


class SourceModule:
    """The syntax tree of a module that is not imported."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text("utf-8"))

    def find_definition(self, name: str) -> tuple[SourceModule, ast.stmt] | None:
        """Return the statement that defines a name, and its module; imports are followed."""
        for statement in _flatten_statements(self.tree.body):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        other = find_source_module(statement.module)
                        return other.find_definition(alias.name) if other else None
            elif name in _defined_names(statement):
                return self, statement
        return None

    def default_as_text(self, default: ast.expr) -> str:
        """Return a default as a user would write it; a constant's name stands for its value."""
        if isinstance(default, ast.Call) and len(default.args) == 1:
            default = default.args[0]  # Path("x")
        if isinstance(default, ast.Name):
            found = self.find_definition(default.id)
            if found and isinstance(found[1], ast.Assign):
                return found[0].default_as_text(found[1].value)
        if isinstance(default, ast.Constant) and isinstance(default.value, bool | str):
            return str(default.value).lower() if isinstance(default.value, bool) else default.value
        return ast.unparse(default)

    def describe_values(self, annotation: ast.expr | None) -> str:
        """Return in words the values that an annotated parameter takes."""
        if annotation is None:
            return "VALUE"
        if isinstance(annotation, ast.BinOp):
            sides = (annotation.left, annotation.right)
            kinds = [self.describe_values(side) for side in sides if not _is_none(side)]
            return "|".join(dict.fromkeys(kinds))
        if isinstance(annotation, ast.Subscript):
            return self._describe_generic_values(annotation)
        if isinstance(annotation, ast.Name):
            if annotation.id in _PLAIN:
                return _PLAIN[annotation.id]
            found = self.find_definition(annotation.id)
            if found and isinstance(found[1], ast.Assign):
                return found[0].describe_values(found[1].value)
        return "CLASS"

    def _describe_generic_values(self, annotation: ast.Subscript) -> str:
        name, inner = ast.unparse(annotation.value).rpartition(".")[2], annotation.slice
        items = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if name == "Literal":
            return "|".join(str(ast.literal_eval(item)) for item in items)
        if name in ("Optional", "Union"):
            return "|".join(self.describe_values(item) for item in items if not _is_none(item))
        if name == "dict":
            return f"{{name: {self.describe_values(items[-1])}, ...}}"
        return f"[{self.describe_values(items[0])}, ...]"


@functools.cache
def find_source_module(name: str) -> SourceModule | None:
    """Return a module of this repository or of a package whose folder is found without import."""
    package, _, inner = name.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], *inner.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return SourceModule(file)
    return None


def read_signature(module: str, name: str) -> Signature:
    """Return the options of a function, a class with `__init__` or a dataclass.

    Args:
        module: dotted path of the module.
        name: name in the module; options are empty where it is not found.
    """
    home = find_source_module(module)
    found = home.find_definition(name) if home else None
    if found is None:
        return Signature("", ())
    home, node = found
    if isinstance(node, ast.ClassDef):
        text = ast.get_docstring(node) or ""
        inner = (n for n in node.body if isinstance(n, ast.FunctionDef))
        init = next((n for n in inner if n.name == "__init__"), None)
        if init is None:
            return Signature(
                _first_paragraph(text),
                tuple(_read_dataclass_fields(home, node, _read_parameter_notes(text))),
            )
        notes = _read_parameter_notes(text) | _read_parameter_notes(ast.get_docstring(init) or "")
        return Signature(_first_paragraph(text), tuple(_read_parameters(home, init, notes)))
    assert isinstance(node, ast.FunctionDef)  # noqa: S101
    text = ast.get_docstring(node) or ""
    return Signature(
        _first_paragraph(text), tuple(_read_parameters(home, node, _read_parameter_notes(text)))
    )


def _read_parameters(
    home: SourceModule, node: ast.FunctionDef, notes: dict[str, str]
) -> Iterator[Option]:
    args = [arg for arg in node.args.args if arg.arg != "self"]
    missing: list[ast.expr | None] = [None] * (len(args) - len(node.args.defaults))
    pairs = [
        *zip(args, [*missing, *node.args.defaults], strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    for arg, default in pairs:
        shown = None if default is None else home.default_as_text(default)
        yield Option(arg.arg, home.describe_values(arg.annotation), shown, notes.get(arg.arg, ""))
    yield from _read_forwarded_options(home, node)


def _read_forwarded_options(home: SourceModule, node: ast.FunctionDef) -> Iterator[Option]:
    """Yield the fields of a dataclass that a function builds of its `**options`."""
    if node.args.kwarg is None:
        return
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        values = [k.value for k in call.keywords if k.arg is None]
        is_passed = any(isinstance(v, ast.Name) and v.id == node.args.kwarg.arg for v in values)
        if is_passed and isinstance(call.func, ast.Name):
            found = home.find_definition(call.func.id)
            if found and isinstance(found[1], ast.ClassDef):
                text = ast.get_docstring(found[1]) or ""
                yield from _read_dataclass_fields(found[0], found[1], _read_parameter_notes(text))


def _read_dataclass_fields(
    home: SourceModule, node: ast.ClassDef, notes: dict[str, str]
) -> Iterator[Option]:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            name = field.target.id
            shown = None if field.value is None else home.default_as_text(field.value)
            yield Option(name, home.describe_values(field.annotation), shown, notes.get(name, ""))


def _flatten_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, those inside `if TYPE_CHECKING` too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _flatten_statements(statement.body)


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _read_parameter_notes(text: str) -> dict[str, str]:
    """Return descriptions by parameter from a docstring in Google's style."""
    body = "".join(_ARGS_HEADING.findall(inspect.cleandoc(text) + "\n"))
    return {name: " ".join(note.split()) for name, note in _ARG.findall(body)}
