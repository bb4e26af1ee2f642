"""An emulator of Google's store in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager


@contextmanager
def gs_server(bucket):
    """Yield the address of an empty bucket on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={bucket}"]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=dict(os.environ), **quiet)
    try:
        _wait_for(f"{address}/storage/v1/b/{bucket}", process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url, process):
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            assert process.poll() is None, "the emulator ended"
            time.sleep(0.1)
    raise AssertionError("the emulator does not answer")


def upload(folder, bucket, address):
    """Upload a folder into a bucket."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = urllib.parse.quote(path.relative_to(folder).as_posix(), safe="")
        request = urllib.request.Request(
            f"{address}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}",
            data=path.read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
            method="POST",
        )
        urllib.request.urlopen(request).close()
