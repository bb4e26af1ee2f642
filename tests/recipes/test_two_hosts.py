"""Two hosts, each a network namespace: started by torchrun, unplugged in mid-run, and resumed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from several_processes import free_port, run_processes
from test_killed_runs import AVERAGE, LAST, RECIPES, fit, same

from lightning_omni.modules.checkpoint_folder import is_checkpoint_folder

MAX_STEPS = 12
PEER = ("type", "veth", "peer", "name", "cable", "netns")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workplace")]


def ip(*args):
    return subprocess.run(["ip", *args], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def hosts():
    """Two namespaces with a cable between them, by name."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"omni{os.getpid()}{end}" for end in "ab"]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here ({error.stderr.strip()})")
    ip("netns", "add", names[1])
    ip("-n", names[0], "link", "add", "cable", *PEER, names[1])
    for number, name in enumerate(names, 1):
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", name, "link", "set", device, "up")
    yield names
    unplug(names)
    for name in names:
        ip("netns", "del", name)


def unplug(names):
    """Kill all processes of hosts at once."""
    for name in names:
        for process in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def launch(hosts, args):
    """Start torchrun on each host."""
    port, started = str(free_port()), []
    for rank, name in enumerate(hosts):
        nodes = f"--nnodes 2 --nproc_per_node 1 --node_rank {rank} --master_addr 10.77.0.1"
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
        command += [*nodes.split(), "--master_port", port, "-m", "lightning_omni", "fit", *args]
        with Path(f"host{rank}.log").open("a") as log:
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable"}
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return started


def ends(started, seconds=240):
    codes = [each.wait(seconds) for each in started]
    assert codes == [0, 0], [Path(f"host{rank}.log").read_text()[-2000:] for rank in range(2)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_hosts_train_as_two_processes_and_go_on_after_a_kill(beside, hosts, strategy):
    beside("image_tokenizer", "speech_tokenizer")  # the media are encoded there already
    recipes = ("debug/stage3", f"strategy/{strategy}")
    args = [arg for name in recipes for arg in ("--config", str(RECIPES / f"{name}.yaml"))]
    args += ["--trainer.max_steps", str(MAX_STEPS), "--trainer.callbacks", f"[{AVERAGE}]"]
    run_processes(partial(fit, args=args, out="whole"), 2, Path.cwd())
    options = "--trainer.num_nodes 2 --trainer.devices 1 --trainer.accelerator cpu "
    options += "--trainer.default_root_dir killed --trainer.enable_progress_bar false "
    options += "--trainer.logger false --run_defaults [checkpoints,export]"
    args += options.split()
    started = launch(hosts, args)
    last = Path(LAST)
    until = time.monotonic() + 240
    while not (last.is_file() or is_checkpoint_folder(last)):
        assert time.monotonic() < until
        assert all(each.poll() is None for each in started), Path("host0.log").read_text()[-2000:]
        time.sleep(0.02)
    unplug(hosts[1:])
    unplug(hosts)
    for each in started:
        each.wait(60)
    assert not Path("killed/export").exists()
    ends(launch(hosts, [*args, "--ckpt_path", LAST]))
    assert same("killed/export", "whole/export")
