"""Nothing goes to the network unless asked: all verbs run where only loopback can be reached."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[1] / "recipes/debug/own_data.yaml"
GUARD = """
import ipaddress, socket, sys

def is_here(family, address):
    if family == getattr(socket, "AF_UNIX", None) or not isinstance(address, tuple):
        return True
    host = address[0]
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

def guarded(name):
    real = getattr(socket.socket, name)
    def call(self, address, *args):
        if not is_here(self.family, address):
            sys.stderr.write(f"REACHED {address}\\n")
            raise OSError(f"network: {address}")
        return real(self, address, *args)
    return call

def resolve(host, *args, real=socket.getaddrinfo, **kwargs):
    if host and not is_here(socket.AF_INET, (host.decode() if isinstance(host, bytes) else host,)):
        sys.stderr.write(f"REACHED {host}\\n")
        raise OSError(f"network: {host}")
    return real(host, *args, **kwargs)

for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, guarded(name))
socket.getaddrinfo = resolve
"""
VERBS = """
import lightning_omni.evaluation.command, lightning_omni.metrics.recognizer
import lightning_omni.callbacks.evaluate_stage
from lightning_omni.cli import main

fit = ["fit", "--config", {recipe!r}, "--data.data", "data", "--trainer.max_steps", "1"]
for args in (
    ["prep-data", "--preset", "smoke", "--out", "data", "--cache", "cache"],
    [*fit, "--trainer.default_root_dir", "run/stage"],
    ["generate", "--task", "t2i", "--text", "a cat", "--num_steps", "1", "--out", "cat"],
    ["report", "--run", "run"],
):
    assert main(args) == 0, args
"""


def run_guarded(code, folder):
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", GUARD + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_guard_notices_the_network_and_lets_loopback_pass(tmp_path):
    done = run_guarded(
        "socket.getaddrinfo('localhost', 1)\nsocket.create_connection(('192.0.2.1', 80))", tmp_path
    )
    assert "REACHED 192.0.2.1" in done.stderr
    assert (
        "REACHED example.invalid"
        in run_guarded("socket.getaddrinfo('example.invalid', 80)", tmp_path).stderr
    )


def test_data_training_generation_and_reports_need_no_network(tmp_path):
    pytest.importorskip("espeakng_loader")
    done = run_guarded(VERBS.format(recipe=str(RECIPE)), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "REACHED" not in done.stderr
    assert (tmp_path / "cat.png").is_file()
    assert (tmp_path / "run/report.html").is_file()
