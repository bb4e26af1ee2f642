"""Claims: which process works on which step, so that several divide a folder's work.

A claim is a file with its owner's host, process and a random word, whose time the owner renews. It
only saves work: outputs take their names in one step and are the same whoever writes them, so two
processes on one step do no harm. A claim is stale once its owner's process is gone, or, seen from
another host, once its time has not changed for a while by the watcher's own clock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT_S = 10.0
STALE_S = 120.0
_SUFFIX = ".claim"
_WORKER = "worker-"


def _host_identity() -> str:
    """Return the name of the machine, with its boot and its namespace of process numbers."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        space += Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        space = ""
    return f"{socket.gethostname()}{space}".replace(" ", "_")


def _process_start_time(pid: int) -> str | None:
    """Return when a process of this machine began; None if it is gone, "" if it cannot be told."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _process_start_time_without_proc(pid)
    return None if state in ("Z", "X") else rest[18]


def _process_start_time_without_proc(pid: int) -> str | None:
    """Return "" if a process exists on a system without /proc."""
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


class Claims:
    """Claims of this process in a folder, renewed by a thread until `close`.

    Args:
        folder: Folder of claims, made if it does not exist.
        stale_s: Seconds without a sign of life after which a claim of another host is taken over.
    """

    def __init__(self, folder: Path, *, stale_s: float = STALE_S) -> None:
        self.folder, self.stale_s = folder, stale_s
        self.host, self.word = _host_identity(), uuid.uuid4().hex[:12]
        self.owner = f"{self.host} {os.getpid()} {_process_start_time(os.getpid())} {self.word}"
        self.held: set[Path] = set()
        self.first_seen: dict[Path, tuple[str, int, float]] = {}
        self.closed = threading.Event()
        threading.Thread(target=self._renew_until_closed, daemon=True).start()
        self._register_worker()

    def _register_worker(self) -> None:
        """Claim a name of its own, also if others who have finished remove the folder meanwhile."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.acquire(f"{_WORKER}{self.word}")
                return

    def acquire(self, name: str) -> bool:
        """Claim a name; False while a living process has it."""
        path = self.folder / f"{name}{_SUFFIX}"
        while True:
            try:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if not self._break_if_stale(path):
                    return False
                continue
            os.write(file, self.owner.encode())
            os.close(file)
            self.held.add(path)
            return True

    def release(self, name: str) -> None:
        """Give a name back."""
        self._remove_own(self.folder / f"{name}{_SUFFIX}")

    @contextlib.contextmanager
    def hold(self, name: str, *, poll_s: float) -> Iterator[None]:
        """Hold a name inside, after waiting for it as long as it takes."""
        while not self.acquire(name):
            time.sleep(poll_s)
        try:
            yield
        finally:
            self.release(name)

    def deregister_worker(self) -> None:
        """Count no longer as a worker of the folder."""
        self.release(f"{_WORKER}{self.word}")

    def has_other_workers(self) -> bool:
        """Whether another living process works in the folder."""
        own = self.folder / f"{_WORKER}{self.word}{_SUFFIX}"
        others = [p for p in self.folder.glob(f"{_WORKER}*{_SUFFIX}") if p != own]
        return any(not self._break_if_stale(path) and path.exists() for path in others)

    def close(self) -> None:
        """Give everything back and stop renewing."""
        self.closed.set()
        for path in list(self.held):
            self._remove_own(path)

    def _remove_own(self, path: Path) -> None:
        self.held.discard(path)
        with contextlib.suppress(OSError):
            if path.read_text() == self.owner:
                path.unlink()

    def _renew_until_closed(self) -> None:
        while not self.closed.wait(HEARTBEAT_S):
            for path in list(self.held):
                with contextlib.suppress(OSError):
                    os.utime(path)

    def _break_if_stale(self, path: Path) -> bool:
        """Remove a claim whose owner is gone; False if it may be alive."""
        try:
            owner, renewed = path.read_text(), path.stat().st_mtime_ns
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):  # ESTALE: gone, as NFS says it
                raise
            return True
        if not self._is_owner_gone(owner) and not self._is_expired(path, owner, renewed):
            return False
        moved = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.stale")
        try:
            path.rename(moved)
        except FileNotFoundError:
            return True
        if moved.read_text() != owner:  # somebody took it over in between
            with contextlib.suppress(OSError):
                os.link(moved, path)
        moved.unlink(missing_ok=True)
        return True

    def _is_owner_gone(self, owner: str) -> bool:
        """Whether the owner was a process of this machine and no longer exists."""
        words = owner.split(" ")  # the start is empty where it cannot be told
        if len(words) != 4 or words[0] != self.host:
            return False
        started = _process_start_time(int(words[1]))
        return started is None or (started != "" and started != words[2])

    def _is_expired(self, path: Path, owner: str, renewed: int) -> bool:
        """Whether a claim has not been renewed for `stale_s` by the clock of this process."""
        seen, now = self.first_seen.get(path), time.monotonic()
        if seen is None or seen[:2] != (owner, renewed):
            self.first_seen[path] = owner, renewed, now
            return False
        return now - seen[2] > self.stale_s
