"""Which Java runs the test broker, and where do the broker's jars come from?

Key: the version in `kafka/pom.xml`. State: a cache directory (`.cache` in the repository, or
NEXTBEST_CACHE), filled once by Maven. Outputs: a Java of at least 17 and a stable class path. It
does not know how the broker is configured.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.packages import install_packages
from tests.servers.process import ServerUnavailable

_POM = Path(__file__).parent / "jars" / "pom.xml"
_REPOSITORY = Path(__file__).parents[2]
_OLDEST_JAVA = 17
_FETCH_TIMEOUT_S = 900


@dataclass(frozen=True)
class BrokerClasses:
    """What starts a broker: a Java, an ordered class path, and where its class archive belongs."""

    java: str
    classpath: str
    archive: Path


@functools.cache
def broker_classes() -> BrokerClasses:
    """Find or fetch all that a broker needs; ServerUnavailable says what is missing."""
    java, version = _find_java()
    directory = _cache() / "kafka" / _kafka_version()
    libraries = _fetch_jars(directory)
    # Explicit and sorted: the class archive is refused for any other order of the class path.
    jars = sorted(str(jar) for jar in libraries.glob("*.jar"))
    return BrokerClasses(
        java=java,
        classpath=os.pathsep.join(jars),
        archive=directory / f"classes-{version}.jsa",
    )


def _cache() -> Path:
    return Path(os.environ.get("NEXTBEST_CACHE") or _REPOSITORY / ".cache").absolute()


def _kafka_version() -> str:
    name = "{http://maven.apache.org/POM/4.0.0}kafka.version"
    version = next((e.text for e in ElementTree.parse(_POM).iter(name)), None)
    if not version:
        raise ValueError(f"{_POM} has no property kafka.version")
    return version


def _find_java() -> tuple[str, str]:
    """The first Java that is new enough, with its version; installs Debian's when there is none."""
    for attempt in ("look", "install"):
        for candidate in _java_candidates():
            version = _java_version(candidate)
            if version is not None and int(version.split(".")[0]) >= _OLDEST_JAVA:
                return candidate, version
        if attempt == "look":
            why = f"Kafka 4 needs a Java runtime of version {_OLDEST_JAVA} or newer"
            install_packages(["default-jre-headless"], why=why)
    raise ServerUnavailable(f"this system's default Java is older than {_OLDEST_JAVA}")


def _java_candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if found := shutil.which("java"):
        yield found
    yield from sorted(map(str, Path("/usr/lib/jvm").glob("*/bin/java")))


def _java_version(java: str) -> str | None:
    """The version a Java reports, such as 17.0.15; None when it is no working Java."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return None
    match = re.search(r'version "(\d+[^"]*)"', done.stderr)
    return match.group(1) if done.returncode == 0 and match else None


def _fetch_jars(directory: Path) -> Path:
    """The directory with the jars that the pom names, copied by Maven when not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    libraries, stamp = directory / "libs", directory / "pom.sha256"
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()
    with _locked(directory / "lock"):
        if stamp.exists() and stamp.read_text() == digest:
            return libraries
        maven = _find_maven()
        print("tests.servers: fetching Kafka's jars with Maven", file=sys.stderr, flush=True)
        stamp.unlink(missing_ok=True)
        shutil.rmtree(libraries, ignore_errors=True)
        # A class archive holds the dates of its jars: with new ones Java would ignore it, silently.
        for archive in directory.glob("*.jsa"):
            archive.unlink()
        # The plugin by its full name, at the pom's version: looking up the prefix "dependency" asks
        # for a dozen other plugins, and hides why an unreachable repository was unreachable.
        goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
        copy = [goal, f"-DoutputDirectory={libraries}", "-Dstyle.color=never"]
        done = subprocess.run(
            [maven, "-q", "-B", "-f", str(_POM), *copy],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            lines = (done.stdout + done.stderr).splitlines()
            # Maven says the cause first and ends with advice on Maven.
            errors = (line.partition("[ERROR]")[2].strip() for line in lines)
            cause = next(filter(None, errors), f"exit code {done.returncode}")
            raise ServerUnavailable(f"Maven could not fetch Kafka's jars: {cause}")
        stamp.write_text(digest)
    return libraries


def _find_maven() -> str:
    found = shutil.which("mvn")
    if found is None:
        install_packages(["maven"], why="Maven, which fetches Kafka's jars, is not on PATH")
        found = shutil.which("mvn")
    if found is None:
        raise ServerUnavailable("Maven was installed but mvn is not on PATH")
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock: two test runs may share one cache."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
