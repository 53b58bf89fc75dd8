"""What the tests fetch from Debian: unpacked into a cache, once, and never installed. Knows nothing of what the packages hold.

Mirror and keys are those of the machine's own apt, whose state is left alone; the suite may be another one.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

# Where unpacked brokers are kept between runs (the environment variable names the folder): 150 MB for RabbitMQ, 10 MB for
# ActiveMQ and 190 MB for the Java that it needs where there is none.
CACHE_VARIABLE: Final = "CLACKS_TESTS_CACHE"


class Unavailable(Exception):
    """A broker cannot be had on this machine; the sentence says why."""


def cached(name: str, make: Callable[[Path], Path]) -> Path:
    """The folder of that name in the cache. Where it is missing `make` gets a scratch folder and answers with what becomes it.

    Raises Unavailable, as `make` does."""
    cache = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/clacks-tests").expanduser()
    root = cache / name
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
                make(Path(scratch)).rename(root)
    return root


def own_suite() -> str:
    """The code name of the machine's own release, empty if it has none."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    return release.get("VERSION_CODENAME", "")


class Suite:
    """One suite of Debian as the machine's own apt reaches it, with all its state in `scratch`. `what` is named when it fails."""

    def __init__(self, suite: str, what: str, scratch: Path, *, sources: bool = False) -> None:
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise Unavailable(f"there is no {program}: {what} is fetched from Debian {suite}")
        self._scratch = scratch
        self.root = scratch / "root"
        for folder in ("state/lists/partial", "cache/archives/partial", "sources", "debs", "root"):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
        (scratch / "sources" / "suite.sources").write_text(_source(suite, what, "deb deb-src" if sources else "deb"))
        options = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": scratch / "sources",
            "Dir::State": scratch / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": scratch / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
        }
        self._apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
        run([*self._apt, "update", "--error-on=any"], scratch)

    def needed(self, package: str, wanted: str) -> list[str]:
        """Of a package and all it depends on, the names that match `wanted`."""
        plan = run([*self._apt, "install", "--simulate", "--no-install-recommends", package], self._scratch)
        return [name for name in re.findall(r"^Inst (\S+) ", plan, re.MULTILINE) if re.fullmatch(wanted, name)]

    def unpack(self, packages: Iterable[str]) -> None:
        """Into `root`."""
        folder = self._scratch / "debs"
        run([*self._apt, "download", *packages], folder)
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg", "-x", str(package), str(self.root)], self._scratch)
            package.unlink()

    def source(self, package: str) -> Path:
        """The upstream tar file of a source package."""
        folder = self._scratch / "source"
        folder.mkdir()
        run([*self._apt, "source", "--download-only", "--tar-only", package], folder)
        return next(folder.glob("*.orig.tar.*"))


def _source(suite: str, what: str, types: str) -> str:
    """The machine's own Debian source with another suite. Raises Unavailable."""
    own = own_suite()
    for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
        for stanza in re.split(r"\n\s*\n", Path(path).read_text()):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if own in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                kept = [f"{key}: {fields[key]}" for key in ("URIs", "Signed-By") if fields.get(key)]
                return "\n".join([f"Types: {types}", f"Suites: {suite}", "Components: main", *kept, ""])
    for path in ("/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")):
        text = Path(path).read_text() if os.path.exists(path) else ""
        if found := re.search(rf"^deb\s+(?:\[.*?signed-by=([^\s\]]+).*?\]\s+|\[.*?\]\s+)?(\S+)\s+{own}\s.*\bmain\b", text, re.MULTILINE):
            signed = f"Signed-By: {found[1]}\n" if found[1] else ""
            return f"Types: {types}\nURIs: {found[2]}\nSuites: {suite}\nComponents: main\n{signed}"
    raise Unavailable(f"this machine's apt has no Debian source for {own or 'its release'}: {what} is fetched from Debian {suite}")


def run(command: list[str], folder: Path) -> str:
    """What it prints. Raises Unavailable with what it says if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise Unavailable(f"`{' '.join(command[:1] + command[-2:])}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout
