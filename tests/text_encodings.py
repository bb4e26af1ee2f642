"""Calls that read or write text in the encoding of the locale."""

import ast


def calls_without_encoding(source):
    """Yield line and text of each call of `read_text` and `write_text` that names none."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
        named = [k.arg for k in node.keywords if k.arg == "encoding"]
        named += [a for a in given if a.startswith("utf-8")]
        if node.func.attr in ("read_text", "write_text") and not named:
            yield node.lineno, ast.unparse(node)[:60]
