"""What can go wrong outside the flow's own logic, as a small tree.

    NextbestError              exit code 1
    ├── ConnectorError         exit code 3: Kafka, Redis or a port cannot be had
    │   └── OffsetExpiredError exit code 3: the topic no longer holds what must be read next
    ├── DeliveryError          exit code 4: records were not acknowledged; resume from the snapshot
    └── RecoveryError          exit code 5: the recovery store is in use, damaged or not ours
        └── RefusedPickleError exit code 5: the store or a peer holds more than plain data

Exit code 2 belongs to mistakes in a policy, a catalogue or the command line. Each message says what
was wrong, where, and what to do; none quotes a password or personal data.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import ClassVar


class NextbestError(Exception):
    """Anything that ends the program with a message and not with a stack trace."""

    exit_code: ClassVar[int] = 1


class ConnectorError(NextbestError):
    """A server or a port that the flow needs cannot be reached or refuses us."""

    exit_code: ClassVar[int] = 3


class OffsetExpiredError(ConnectorError):
    """The offset to read next is outside what the topic still holds: reading on would skip."""


class DeliveryError(NextbestError):
    """Records were refused or not acknowledged in time: the epoch must not close over them."""

    exit_code: ClassVar[int] = 4


class RecoveryError(NextbestError):
    """The recovery store cannot be used: in use by another run, damaged, or of another shape."""

    exit_code: ClassVar[int] = 5


class RefusedPickleError(RecoveryError, UnpicklingError):
    """Pickled bytes name a class that plain state never needs; nothing of them was run."""
