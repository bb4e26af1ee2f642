"""Worker process that synthesizes each line of its input in a new child process.

espeak-ng keeps hidden state between sentences; in a new child, a clip depends only on its text and
voice. Only the standard library is imported here, so that children are cheap.

Protocol: the worker first writes a line with the sample rate. For each input line
`voice<TAB>text` it writes a line with the number of bytes (0 on failure), then that many bytes of
16-bit samples.
"""

from __future__ import annotations

import ctypes
import os
import sys

import espeakng_loader

_SYNCHRONOUS_OUTPUT = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE_PARAMETER = 1
_WORDS_PER_MINUTE = 150
_SEED = 1

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def synthesize_in_child_process(library: ctypes.CDLL, voice: str, text: str) -> bytes:
    """Return 16-bit samples of a sentence; empty if the voice is unknown."""
    samples = bytearray()

    def collect_samples(wave: ctypes.c_void_p, count: int, _events: ctypes.c_void_p) -> int:
        if wave and count > 0:
            samples.extend(ctypes.string_at(wave, count * 2))
        return 0

    if hasattr(library, "espeak_ng_SetRandSeed"):  # the breath of some voices is random
        library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
    callback = _Callback(collect_samples)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        return b""
    library.espeak_SetParameter(_RATE_PARAMETER, _WORDS_PER_MINUTE, 0)
    raw = text.encode() + b"\0"
    library.espeak_Synth(raw, len(raw), 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return bytes(samples)


def serve_requests() -> int:
    """Serve requests until the input ends."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS_OUTPUT, 0, data, _DONT_EXIT)
    out = sys.stdout.buffer
    out.write(f"{rate}\n".encode())
    out.flush()
    for line in sys.stdin:
        voice, _, text = line.rstrip("\n").partition("\t")
        child = os.fork()
        if child == 0:
            samples = synthesize_in_child_process(library, voice, text)
            out.write(f"{len(samples)}\n".encode() + samples)
            out.flush()
            os._exit(0)
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(serve_requests())
