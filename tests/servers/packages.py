"""How does a fresh Debian machine get the programs that the test servers need?

Outputs: an installed package, or ServerUnavailable with the command a person would type. Installs
only as root or by a sudo that asks no password, and never when NEXTBEST_NO_INSTALL is set.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tests.servers.process import ServerUnavailable

_INSTALL_TIMEOUT_S = 900


def install_packages(packages: Sequence[str], *, why: str) -> None:
    """Install Debian packages; ServerUnavailable says why that was not possible."""
    wanted = " ".join(packages)
    advice = f"{why}; install it with: apt-get install {wanted}"
    if os.environ.get("NEXTBEST_NO_INSTALL"):
        raise ServerUnavailable(f"{advice} (NEXTBEST_NO_INSTALL is set)")
    if shutil.which("apt-get") is None:
        raise ServerUnavailable(f"{advice} or your system's equivalent (there is no apt-get here)")
    prefix = _privilege()
    if prefix is None:
        raise ServerUnavailable(f"{advice} (neither root nor a sudo without password)")
    print(f"tests.servers: {why}: installing {wanted} with apt-get", file=sys.stderr, flush=True)
    _refresh_package_lists(prefix)
    # Waits for another apt, such as a machine's own first-boot update, instead of failing.
    options = ["-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    done = _run([*prefix, "apt-get", "install", *options, *packages])
    if done.returncode != 0:
        raise ServerUnavailable(f"{advice} (apt-get failed: {_last_line(done)})")


def _privilege() -> tuple[str, ...] | None:
    """The words to put before a command so that it runs as root; None when there is no way."""
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and _run(["sudo", "-n", "true"]).returncode == 0:
        return ("sudo", "-n")
    return None


@functools.cache
def _refresh_package_lists(prefix: tuple[str, ...]) -> None:
    # The outcome is not checked: an unreachable list matters only if the install then fails.
    _run([*prefix, "apt-get", "update"])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command),
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_S,
        check=False,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
