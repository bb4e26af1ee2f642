"""Calls that read or write text in the encoding of the locale."""

import ast


def calls_without_encoding(source):
    """Yield line and method of each call of `read_text`, `write_text` and `open` without one."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if name not in ("read_text", "write_text", "open", "NamedTemporaryFile"):
            continue
        given = [a.value for a in node.args if isinstance(a, ast.Constant)]
        keywords = {k.arg: k.value for k in node.keywords}
        is_binary = any(isinstance(v, str) and "b" in v for v in given) or "mode" in keywords
        is_named = "encoding" in keywords or any(str(v).startswith("utf-8") for v in given)
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        is_text = owner.split(".")[0] not in ("os", "Image", "tarfile", "av", "zipfile", "gzip")
        if name in ("read_text", "write_text"):
            if not is_named:
                yield node.lineno, ast.unparse(node)[:60]
        elif is_text and not (is_binary or is_named):
            yield node.lineno, ast.unparse(node)[:60]
