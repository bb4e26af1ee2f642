"""Follow a page of documentation: write its files, run its commands, compare what they print.

The page is the argument; the current folder holds a copy of the repository. Blocks mean:

- a title: a file, as shown; for the language `diff`, a change of a file that is there;
- `console`: commands after `$`, each followed by lines that it prints, `...` standing for anything;
- `pycon`: a Python session, as in doctest.

All commands run in this process, which saves the seconds of importing the package for each.
"""

import contextlib
import doctest
import importlib.util
import io
import json
import logging
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)
DATA = (".csv", ".jsonl", ".melody")
"""Suffixes of data, which are no files of the repository."""


class Block(NamedTuple):
    """A block of code."""

    language: str
    title: str
    code: str


def blocks_of(page):
    """The blocks of a page, in order."""
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def touched_files(page):
    """The files of the repository that a reader of a page touches."""
    titles = {block.title for block in blocks_of(page) if block.title}
    return sorted(title for title in titles if not title.endswith(DATA))


def apply_change(path, diff):
    """Apply a change without line numbers; the lines around it must occur once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    content = path.read_text()
    assert content.count(before) == 1, f"{path} has {content.count(before)} places like\n{before}"
    path.write_text(content.replace(before, after))


def write_files(page):
    """Write the files of a page and apply its changes."""
    for block in blocks_of(page):
        path = Path(block.title)
        if block.language == "diff":
            apply_change(path, block.code)
        elif block.title:
            assert not path.exists(), f"{path} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)


def run(command):
    """Run a command line and return what it printed."""
    name, *args = shlex.split(command)
    logging.getLogger().handlers.clear()  # the command line logs to the output of its time
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        if name == "pytest":
            pytest.main([*args, "-W", "ignore::pytest.PytestAssertRewriteWarning"])
        else:
            assert name == "lightning_omni", command
            importlib.import_module("lightning_omni.cli").main(args)
    return out.getvalue()


def follow_console(code):
    """Run the commands of a block; the lines after each must be among those it prints, in order."""
    for piece in code.split("$ ")[1:]:
        command, *wanted = piece.splitlines()
        printed = run(command)
        lines = iter(printed.splitlines())
        for line in wanted:
            pattern = ".*".join(map(re.escape, line.split("...")))
            found = any(re.fullmatch(pattern, other.rstrip()) for other in lines)
            assert found, f"{command}\ndoes not print\n{line}\nbut\n{printed}"
        if not any(line.startswith("error:") for line in wanted):
            assert "error:" not in printed, f"{command}\n{printed}"


def follow_session(code, names):
    """Run a Python session as doctest does."""
    test = doctest.DocTestParser().get_doctest(code, names, "page", None, 0)
    out = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=out.write, clear_globs=False)
    assert not runner.failures, out.getvalue()
    names.update(test.globs)


def follow(page):
    """Do all that a page says."""
    write_files(page)
    names = {}
    for block in blocks_of(page):
        if block.language == "console":
            follow_console(block.code)
        elif block.language == "pycon":
            follow_session(block.code, names)


if __name__ == "__main__":
    origin = importlib.util.find_spec("lightning_omni").origin
    assert Path(origin).is_relative_to(Path.cwd()), origin
    warnings.simplefilter("ignore")
    follow(Path(sys.argv[1]))
    print(json.dumps(touched_files(Path(sys.argv[1]))))  # noqa: T201
