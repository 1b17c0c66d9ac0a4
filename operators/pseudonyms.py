"""How are people unreadable at rest? State is sealed, and keys that must match are keyed hashes.

Sealing is AES-SIV (Rogaway and Shrimpton, 2006; RFC 5297): equal bytes seal to equal bytes, so that
equal state still gives equal snapshots, and what was altered does not open. A keyed hash (BLAKE2b,
RFC 7693) stands for an identifier where only equality matters. Both keys come from one secret.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

_MARK_BYTES: Final = 4
_IV_BYTES: Final = 16
LEAST_KEY_BYTES: Final = 16


class SealError(Exception):
    """Sealed bytes that do not open: another key, or altered."""


class _Key:
    def __init__(self, secret: bytes) -> None:
        self.mark = blake2b(secret, digest_size=_MARK_BYTES, person=b"nextbest-mark").digest()
        self.hashing = blake2b(secret, digest_size=32, person=b"nextbest-hash").digest()
        self.sealing = AESSIV(blake2b(secret, digest_size=64, person=b"nextbest-seal").digest())


class Pseudonyms:
    """Seals state with one secret, and opens what it or a former one sealed.

    Raises ValueError for a secret shorter than 16 bytes. Neither repr nor errors show a secret.
    """

    def __init__(self, secret: bytes, *, former: bytes | None = None) -> None:
        if min(len(secret), LEAST_KEY_BYTES if former is None else len(former)) < LEAST_KEY_BYTES:
            raise ValueError(f"expected a secret of at least {LEAST_KEY_BYTES} bytes")
        self._key = _Key(secret)
        self._former = None if former is None else _Key(former)

    @property
    def mark(self) -> int:
        """Tells secrets apart without revealing them."""
        return int.from_bytes(self._key.mark, "big")

    def key_of(self, text: str) -> bytes:
        """The keyed hash that stands for a text: 16 bytes, equal for equal texts."""
        return blake2b(text.encode(), key=self._key.hashing, digest_size=16).digest()

    def seal(self, data: bytes) -> bytes:
        """The bytes sealed with the present secret, 20 bytes longer; equal for equal bytes."""
        if not data:
            raise ValueError("expected at least one byte to seal")
        sealed = self._key.sealing.encrypt(data, None)
        # What opens it (the synthetic IV) comes last: the first part of a former snapshot, left in
        # the slack of a page, then cannot be opened even with the key.
        return self._key.mark + sealed[_IV_BYTES:] + sealed[:_IV_BYTES]

    def open(self, sealed: bytes) -> bytes:
        """What was sealed, with the present or the former secret; raises SealError."""
        mark, body = sealed[:_MARK_BYTES], sealed[_MARK_BYTES:]
        for key in (self._key, self._former):
            if key is not None and key.mark == mark:
                try:
                    return key.sealing.decrypt(body[-_IV_BYTES:] + body[:-_IV_BYTES], None)
                except (InvalidTag, ValueError) as error:
                    raise SealError("the sealed state was altered or is damaged") from error
        raise SealError(
            "the state was sealed with another key: give that key, or, to replace it, give it as "
            "the former one"
        )


UNSHARED: Final = Pseudonyms(b"state that never leaves its process")
"""For state that is not kept: a replay in memory. Protects nothing at rest."""
