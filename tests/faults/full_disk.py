"""Disks that are full, read-only or faulty, made by a small file system or by hand."""

import builtins
import errno
import io
import os
import random
import subprocess
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

FULL, READ_ONLY, FAULTY = "full", "read-only", "faulty"
_SIZE = 96 << 20


@cache
def can_mount():
    """Whether this process may mount a file system."""
    place = Path("/tmp") / f"mount-{os.getpid()}"
    place.mkdir()
    is_mounted = _mount(place)
    if is_mounted:
        _unmount(place)
    place.rmdir()
    return is_mounted


def _mount(place, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={_SIZE}", *options]), "tmpfs", place]
    with suppress(FileNotFoundError):
        return not subprocess.run(command, capture_output=True, check=False).returncode
    return False


def _unmount(place):
    subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def small_disk(place):
    """A folder on a file system of its own where that may be mounted."""
    place.mkdir()
    is_mounted = can_mount() and _mount(place)
    try:
        yield place
    finally:
        if is_mounted:
            _unmount(place)


@contextmanager
def failing(place, kind, number, room):
    """Let the disk of `place` fail.

    Args:
        place: Folder of `small_disk`.
        kind: How.
        number: Seed of what is left: of `room` bytes on a full disk, of operations that still
            succeed on a faulty one.
        room: Bytes that the verb is known to write at most.
    """
    rng = random.Random(number)
    if kind == FAULTY:
        with _failing_operation(place, rng.randrange(24)):
            yield
    elif kind == FULL and can_mount():
        _fill(place, rng.randrange(room))
        yield
    elif kind == READ_ONLY and can_mount():
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield
    elif kind == READ_ONLY and os.getuid():
        folders = [place, *(p for p in place.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        yield
        for folder in folders:
            folder.chmod(0o700)
    else:
        with _failing_operation(place, 0 if kind == READ_ONLY else rng.randrange(24), kind):
            yield


def _fill(place, left):
    """Fill a disk up to some bytes."""
    found = os.statvfs(place)
    with (place / ".filler").open("wb") as file:
        file.write(bytes(max(0, found.f_bavail * found.f_frsize - left)))


def free(place):
    """Make room again, for a second try."""
    if can_mount():
        subprocess.run(["mount", "-o", "remount,rw", place], check=True, capture_output=True)
    (place / ".filler").unlink(missing_ok=True)


class _Countdown:
    """Lets operations below a folder fail after some of them."""

    def __init__(self, place, last_good, code):
        self.place, self.left, self.code = str(place), last_good, code

    def check(self, path):
        if str(path).startswith(self.place):
            if self.left <= 0:
                raise OSError(self.code, os.strerror(self.code), str(path))
            self.left -= 1

    def open(self, file, mode="r", *args, **kwargs):
        if isinstance(file, str | os.PathLike) and set(mode) & set("wax+"):
            self.check(Path(file).absolute())
        return _OPEN(file, mode, *args, **kwargs)

    def call(self, function):
        def counted(path, *args, **kwargs):
            is_descriptor = isinstance(path, int)
            self.check(os.readlink(f"/proc/self/fd/{path}") if is_descriptor else _absolute(path))
            return function(path, *args, **kwargs)

        return counted


def _absolute(path):
    return Path(os.fsdecode(path)).absolute()


_OPEN = io.open


@contextmanager
def _failing_operation(place, last_good, kind=FAULTY):
    """Let what opens, syncs, renames and makes below `place` fail after some of it."""
    code = {FAULTY: errno.EIO, FULL: errno.ENOSPC, READ_ONLY: errno.EROFS}[kind]
    countdown = _Countdown(place, last_good, code)
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "mkdir")}
    try:
        builtins.open = io.open = countdown.open
        for name, function in real.items():
            setattr(os, name, countdown.call(function))
        yield
    finally:
        builtins.open = io.open = _OPEN
        for name, function in real.items():
            setattr(os, name, function)
