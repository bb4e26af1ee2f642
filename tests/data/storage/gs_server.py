"""An emulator of Google's store in a process of its own."""

import urllib.parse
import urllib.request

from server_process import server_process


def gs_server(bucket):
    """Yield the address of an empty bucket on loopback."""

    def options(port):
        place = ["--host=127.0.0.1", f"--port={port}"]
        return ["start", *place, "--in-memory", f"--default-bucket={bucket}"]

    return server_process("gcp_storage_emulator", options, ready=f"/storage/v1/b/{bucket}")


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
