"""Files of a checkpoint folder with their checksums: each process hashes what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from lightning_omni.files import SUMS_FILE, file_sha256, replace_file
from lightning_omni.modules.checkpoint_file import parse_comment


@dataclass(frozen=True)
class _HashedResult(WriteResult):
    """What was written, and the checksum of its file."""

    sha256: str


class ChecksummedWriter(FileSystemWriter):
    """Lists the folder's files with their checksums in `SHA256SUMS`, as `sha256sum -c` reads them.

    Each process hashes the file it has written; the first one hashes the others of the folder and
    writes the list at the end, which any number of hosts so shares.

    Args:
        path: Folder.
        comment: What stands above the list, from `describe_save`.

    Source: `FileSystemWriter` of `torch.distributed.checkpoint`.
    """

    def __init__(self, path: Path, comment: str) -> None:
        super().__init__(path)
        self.comment = comment

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's share and return what was written, with checksums."""
        written = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in written}
        sums = {name: file_sha256(Path(self.path) / name) for name in names}
        hashed: list[WriteResult] = [
            _HashedResult(
                r.index, r.size_in_bytes, r.storage_data, sums[r.storage_data.relative_path]
            )
            for r in written
        ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(hashed)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index and the list of checksums, on the first process."""
        super().finish(metadata, results)
        folder = Path(self.path)
        sums = {
            result.storage_data.relative_path: result.sha256
            for part in results
            for result in part
            if isinstance(result, _HashedResult)
        }
        others = [path for path in folder.iterdir() if path.is_file() and path.name not in sums]
        sums |= {path.name: file_sha256(path) for path in others}
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        replace_file(folder / SUMS_FILE, self.comment + "".join(lines))


def describe_damaged_files(folder: Path, *, share: tuple[int, int] = (0, 1)) -> list[str]:
    """Return a phrase about each file of a folder that differs from its `SHA256SUMS`.

    Args:
        folder: Folder with such a list.
        share: Number of this process and of all that look: it looks at its share of the files.
    """
    number, count = share
    lines = (folder / SUMS_FILE).read_text("utf-8", errors="replace").splitlines()
    listed = [line.partition("  ")[::2] for line in lines if not line.startswith("#")]
    there = {path.name for path in folder.iterdir()} - {SUMS_FILE}
    found = dict.fromkeys(there - {name for _, name in listed}, f"is not listed in {SUMS_FILE}")
    if any(line.startswith("#") and parse_comment(line) is None for line in lines):
        found[SUMS_FILE] = "was changed where it says run and step"
    for digest, name in listed[number::count]:
        try:
            if file_sha256(folder / name) != digest:
                found[name] = f"differs from its checksum in {SUMS_FILE}"
        except (OSError, ValueError) as error:
            found[name] = f"cannot be read: {error}"
    return [f"{name or SUMS_FILE} {why}" for name, why in found.items()]
