"""Work done by several processes over gloo, forked after torch is imported once."""

import os
import signal
import socket
import time
import traceback

import torch
import torch.distributed as dist


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def run_processes(work, world_size, folder, *, joins=False):
    """What `work(rank)` returns in each of so many processes, which Lightning finds by itself.

    With `joins` they are in a process group when the work begins.
    """
    children = _start(work, world_size, folder, joins=joins)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    failed = [folder / f"error{r}.txt" for r, code in enumerate(codes) if code]
    told = [path.read_text() for path in failed if path.exists()]
    assert not any(codes), "\n".join([str(codes), *told])
    return [torch.load(folder / f"found{r}.pt", weights_only=False) for r in range(world_size)]


def run_until_one_is_killed(work, world_size, folder):
    """Let `work(rank)` run in so many processes until one kills itself; the others are killed."""
    children = _start(work, world_size, folder, joins=False)
    first, status = os.wait()
    told = [path.read_text() for path in folder.glob("error*.txt")]
    for child in children:
        if child != first:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, told


def run_until_signalled(work, world_size, folder, *, to, number, when):
    """Signal one of so many processes as soon as `when()` returns.

    Returns what `work(rank)` returned in each, and the seconds until the last one had left.
    """
    children = _start(work, world_size, folder, joins=False)
    when()
    os.kill(children[to], number)
    begun = time.monotonic()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    seconds = time.monotonic() - begun
    told = [path.read_text() for path in folder.glob("error*.txt")]
    assert not any(codes), "\n".join([str(codes), *told])
    return [torch.load(folder / f"found{r}.pt") for r in range(world_size)], seconds


def _start(work, world_size, folder, *, joins):
    """Start processes and return their numbers."""
    port = free_port()
    children = []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            os._exit(_run(work, rank, world_size, port, folder, joins=joins))
        children.append(child)
    return children


def _run(work, rank, world_size, port, folder, *, joins):
    try:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            LOCAL_RANK=str(rank),
            NODE_RANK="0",
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
        )
        if joins:
            dist.init_process_group("gloo", rank=rank, world_size=world_size)
        torch.save(work(rank), folder / f"found{rank}.pt")
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:  # noqa: BLE001  told by the parent
        (folder / f"error{rank}.txt").write_text(traceback.format_exc())
        return 1
    return 0
