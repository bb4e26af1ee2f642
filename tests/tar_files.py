"""Tars of given members."""

import io
import tarfile


def write_tar(path, files, **options):
    """Write `(name, content)` pairs into a tar and return its path."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path
