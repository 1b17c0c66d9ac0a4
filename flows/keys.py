"""Which secret seals the state? That of the settings, or of a file made beside the store."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Final

from flows.errors import NextbestError
from flows.settings import Settings
from operators.pseudonyms import Pseudonyms

_LOG: Final = logging.getLogger(__name__)
_KEY_FILE: Final = "pseudonym.key"
_KEY_BYTES: Final = 32


class SealingKeyError(NextbestError):
    """A secret that cannot be read or is too short."""

    exit_code = 2


def pseudonyms_of(settings: Settings, *, make: bool = False) -> Pseudonyms:
    """The pseudonyms of the settings' secret; of `pseudonym.key` in the store where none is set.

    `make` writes that file (0600) where it is missing. Raises SealingKeyError where there is no
    usable secret; the message never shows one.
    """
    former = settings.former_pseudonym_key
    try:
        return Pseudonyms(
            _secret(settings, make=make),
            former=None if former is None else former.get_secret_value().encode(),
        )
    except ValueError as error:
        raise SealingKeyError(f"the pseudonym key is too short: {error}") from None


def _secret(settings: Settings, *, make: bool) -> bytes:
    if settings.pseudonym_key is not None:
        return settings.pseudonym_key.get_secret_value().encode()
    beside = settings.recovery_dir / _KEY_FILE
    path = settings.pseudonym_key_file or beside
    try:
        if make and path == beside and not path.exists():
            _make(path)
        return path.read_bytes().strip()
    except OSError as error:
        raise SealingKeyError(
            f"the pseudonym key cannot be read: {error.strerror}: {path}; set "
            "NEXTBEST_PSEUDONYM_KEY or NEXTBEST_PSEUDONYM_KEY_FILE"
        ) from None


def _make(path: Path) -> None:
    """Write a new secret, whole or not at all: two processes may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_hex(_KEY_BYTES).encode())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
        _LOG.warning(
            "made %s to seal the state with; keep it apart from the store in production "
            "(NEXTBEST_PSEUDONYM_KEY_FILE), and in no backup that the store is in",
            path.name,
        )
    except FileExistsError:
        pass
    finally:
        partial.unlink()
