"""What is published on the topics `policies` and `catalogue`, and is it whole?

    catalogue   content id -> the content as JSON; a tombstone withdraws it
    policies    policy digest -> the policy as YAML; `current` -> the digest of the one in force

`current` ends a publication. Its headers name the catalogue that it goes with, by version and by a
checksum of the records themselves, so that a reader knows when it has all of it. Here are records
as values; who reads and writes them is `flows.versions` and `flows.publish_cli`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import orjson

from flows.errors import NextbestError
from flows.kafka.compacted import Kept
from flows.load import ConfigError
from operators.plan import Plan, compile_plan
from schemas.catalogue import Content
from schemas.check import Checked, load
from schemas.digest import catalogue_version

CURRENT: Final = b"current"
LINES: Final = "catalogue.jsonl"
"""What mistakes call the catalogue that is published, one content a line."""
_VERSION: Final = "catalogue"
_CHECKSUM: Final = "checksum"


class NotWholeError(NextbestError):
    """The topics hold something that no publication vouches for; the message says what to do."""

    exit_code = 2


class Published(NamedTuple):
    """A policy and a catalogue that were published together, as bytes.

    `catalogue_version` is None where `current` was written by hand and names no catalogue.
    """

    policy_digest: str
    policy: bytes
    catalogue_version: str | None
    contents: dict[bytes, bytes]

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from every other publication."""
        return self.policy_digest, checksum(self.contents)


def content_records(contents: Iterable[Content]) -> dict[bytes, bytes]:
    """Contents as records: what a file does not say, its record does not either."""
    return {
        content.content_id.encode(): orjson.dumps(
            content.model_dump(mode="json", by_alias=True, exclude_unset=True),
            option=orjson.OPT_SORT_KEYS,
        )
        for content in contents
    }


def checksum(contents: Mapping[bytes, bytes]) -> str:
    """24 hexadecimal digits naming the records of a catalogue, whatever their order.

    Of the bytes and not of what they mean: another release may read more into them.
    """
    digest = hashlib.blake2b(digest_size=12)
    for key in sorted(contents):
        for part in (key, contents[key]):
            digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()


def current_headers(version: str, contents: Mapping[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The headers of `current` for a catalogue."""
    return (_VERSION, version.encode()), (_CHECKSUM, checksum(contents).encode())


def whole(policies: Mapping[bytes, Kept], catalogue: Mapping[bytes, Kept]) -> Published | None:
    """What is published; None where nothing ever was.

    Raises NotWholeError where the policy is missing, or the catalogue is not the one it goes with.
    """
    current = policies.get(CURRENT)
    if current is None:
        return None
    digest = current.value.decode(errors="replace").strip()
    policy = policies.get(digest.encode())
    if policy is None or digest.encode() == CURRENT:
        raise NotWholeError(f"policy {digest!r} is to be in force and is not on the topic")
    contents = {key: kept.value for key, kept in catalogue.items()}
    headers = dict(current.headers)
    expected = headers.get(_CHECKSUM)
    if expected is not None and expected != checksum(contents).encode():
        raise NotWholeError(
            "the catalogue on its topic is not the one that was published with policy "
            f"{digest}: records are missing, or were written by other means than "
            "`nextbest publish`; publish again"
        )
    version = headers.get(_VERSION) if expected is not None else None
    return Published(
        digest, policy.value, version.decode(errors="replace") if version else None, contents
    )


def catalogue_text(contents: Mapping[bytes, bytes]) -> str:
    """The contents as JSON Lines."""
    # Line breaks within JSON mean nothing, and one record must stay one line.
    lines = (value.replace(b"\n", b" ") for value in contents.values())
    return b"\n".join(lines).decode(errors="replace")


def checked(published: Published) -> Checked:
    """The policy and the catalogue with every mistake, as `nextbest check` finds them."""
    return load(
        published.policy.decode(errors="replace"),
        policy_name=f"policy {published.policy_digest}",
        catalogue_text=catalogue_text(published.contents),
        catalogue_name=LINES,
    )


def compiled(published: Published) -> Plan:
    """The plan; it is named as it was published. Raises ConfigError with every mistake."""
    found = checked(published)
    if found.failed or found.policy is None or found.contents is None:
        raise ConfigError("\n".join(str(m) for m in found.mistakes if m.severity == "error"))
    return compile_plan(
        found.policy,
        found.contents,
        policy_digest=published.policy_digest,
        catalogue_version=published.catalogue_version or catalogue_version(found.contents),
    )
