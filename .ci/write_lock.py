"""Print the packages of a report of pip as requirements with hashes, without addresses."""

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any


def lock_lines(report: dict[str, Any]) -> list[str]:
    """Return the lines; the project itself, which is a folder, has no hash and no line."""
    lines = []
    for found in report["install"]:
        hashes = found["download_info"].get("archive_info", {}).get("hashes", {})
        name = re.sub(r"[-_.]+", "-", found["metadata"]["name"]).lower()
        if "sha256" in hashes:
            digest = hashes["sha256"]
            lines.append(f"{name}=={found['metadata']['version']} --hash=sha256:{digest}")
        elif "dir_info" not in found["download_info"]:
            raise SystemExit(f"error: {name} has no SHA-256")
    return sorted(lines)


if __name__ == "__main__":
    version = ".".join(platform.python_version_tuple()[:2])
    print(f"# For {platform.system()} {platform.machine()}, Python {version}; made by .ci/lock.")
    print("\n".join(lock_lines(json.loads(Path(sys.argv[1]).read_text("utf-8")))))
