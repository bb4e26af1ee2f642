"""A store's server in a process of its own, on loopback."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager


@contextmanager
def server_process(module, options, *, ready, env=None):
    """Run a module's server and yield its address, when it answers.

    Args:
        module: Module that is run.
        options: Makes its arguments of the port.
        ready: Path that answers once the server is there.
        env: Further variables of its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", module, *options(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, **quiet)
    try:
        _wait_for(f"{address}{ready}", process)
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
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
