import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from lightning_omni.nn.cpu import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 64 << 20
def pages():
    return int(open("/proc/self/statm").read().split()[1])
before = pages()
block = libc.malloc(size)
ctypes.memset(block, 1, size)
libc.free(block)
print((pages() - before) * 4096 / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(("how", "low", "high"), [("keep", 0.9, 1.2), ("default", -0.1, 0.1)])
def test_a_freed_block_stays_in_the_process_only_when_asked(how, low, high):
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert low < float(out.stdout) < high
