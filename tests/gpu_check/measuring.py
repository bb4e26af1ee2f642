"""What checks share: their options, their outcome, times and comparisons."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

PEAK_TFLOPS = 989.4
"""Dense bfloat16 of an H100 or H200 SXM by the datasheet; MFU is against it."""


@dataclasses.dataclass
class Options:
    """Of a check."""

    device: str
    tiny: bool
    out: Path
    root: Path
    seconds: float
    file: Path
    started: float = dataclasses.field(default_factory=time.monotonic)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def keep(self, found: dict[str, Any], headline: str) -> None:
        """Write what there is, in case the time limit ends the check."""
        said = {
            "status": "timeout",
            "headline": f"ended by its time limit; {headline}",
            "against": "",
            "numbers": found,
        }
        self.file.write_text(json.dumps(said, indent=1, default=str))


def outcome(
    ok: bool | None, headline: str, against: str, *, speed: bool = False, **numbers: Any
) -> dict[str, Any]:
    status = "pass" if ok else ("miss" if speed else "FAIL")
    return {"status": status, "headline": headline, "against": against, "numbers": numbers}


def relative(a: Any, b: Any) -> float:
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def packed_lengths(total: int, shortest: int, longest: int, rng: Any) -> list[int]:
    import torch

    lengths: list[int] = []
    while (room := total - sum(lengths)) >= shortest:
        n = int(torch.randint(shortest, longest + 1, (), generator=rng))
        lengths.append(n if room - n >= shortest or room == n else room)
    return lengths


def synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(run: Any, device: str, repeats: int, warm_up: int = 2) -> tuple[float, float]:
    """Median seconds of a call and half the distance between its quartiles, as a share."""
    for _ in range(warm_up):
        run()
    found = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        found.append(time.perf_counter() - start)
    low, _, high = statistics.quantiles(found, n=4) if len(found) > 1 else (found[0],) * 3
    middle = statistics.median(found)
    return middle, (high - low) / 2 / middle


def autocast(device: str, enabled: bool = True) -> Any:
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=enabled)
