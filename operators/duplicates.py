"""Which two profiles are probably one person? Suggestions, never merges.

Evidence of a profile is its e-mail address, phone number and name, normalised, then hashed with a
key. Of the first two, equality is all that is left; of a name, the hashes of its pairs of letters,
over which names are compared (Schnell, Bachteler and Reiher, 2009, encode such pairs as well).

Key of the machine: a block group. State: blocks, each of the newest profiles that share a piece of
evidence, and the evidence of their profiles. Only profiles that share a block are ever compared, so
what a new profile costs does not grow with their number (blocking: Fellegi and Sunter, 1969).
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from rapidfuzz.distance import Indel

from operators.profile import Profile
from operators.sealed_state import Seal, decode_state, encode_state
from schemas.events import Scalar
from schemas.identity import SUGGESTION_VERSION, MatchedOn, Suggest
from schemas.time import rfc3339

GROUPS: Final = 8
MAGIC: Final = b"NBDU"
VERSION: Final = 1
MOST_IN_BLOCK: Final = 16
MOST_PROFILES: Final = 125_000
MOST_SUGGESTED: Final = 100_000
_MOST_CHARACTERS: Final = 320
_MOST_NAME: Final = 64
_HASH_BYTES: Final = 8

# How far each piece of evidence alone speaks for one person. Set by hand: a mailbox is rarely
# shared, a phone number in a household often, a name by strangers. Together they count as
# independent hints: the score is 1 - product(1 - weight).
WEIGHTS: Final[dict[MatchedOn, float]] = {
    "email": 0.97,
    "phone": 0.9,
    "local_part": 0.5,
    "name": 0.8,
}
ALIKE: Final = 0.8
"""Names at least this similar speak for one person, the more the more similar they are."""
UNLIKE: Final = 0.5
"""Names less similar speak against it: who shares a mailbox or a phone need not be one person."""
_CONTRADICTED: Final = 0.8

_GMAIL: Final = frozenset({"gmail.com", "googlemail.com"})
_SHORT_LOCAL: Final = 5
_SHARED_LOCAL: Final = frozenset(
    {"admin", "contact", "hello", "kontakt", "office", "sales", "service", "support", "webmaster"}
)
_NOT_IN_NAMES: Final = re.compile(r"[^\w]|[\d_]")

Record = dict[str, Any]


class Contact(NamedTuple):
    """What a profile says of how to reach its person; all None: the profile is no more."""

    profile_id: str
    email: Scalar
    phone: Scalar
    name: Scalar
    at_ms: int


class Evidence(NamedTuple):
    """A contact as far as it can be compared: keyed hashes. Nothing there: None, no pairs."""

    profile_id: str
    email: bytes | None
    phone: bytes | None
    local_part: bytes | None
    name: bytes | None
    pairs: tuple[int, ...]
    at_ms: int

    def blocks(self) -> list[tuple[MatchedOn, bytes]]:
        """The blocks of the profile, those that say most first."""
        found: tuple[tuple[MatchedOn, bytes | None], ...] = (
            ("email", self.email),
            ("phone", self.phone),
            ("local_part", self.local_part),
            ("name", self.name),
        )
        return [(kind, key) for kind, key in found if key is not None]


def contact_of(profile: Profile, suggest: Suggest, at_ms: int) -> Contact:
    """The contact that a profile's attributes give."""
    email, phone, name = (
        None if asked is None else profile.attributes.get(asked)
        for asked in (suggest.email, suggest.phone, suggest.name)
    )
    return Contact(profile.profile_id, email, phone, name, at_ms)


def no_contact(profile_id: str, at_ms: int) -> Contact:
    """What is said of a profile that was erased or dropped."""
    return Contact(profile_id, None, None, None, at_ms)


def evidence_of(contact: Contact, suggest: Suggest, seal: Seal) -> Evidence:
    """The evidence of a contact; what is not an address, a number or a name gives none."""

    def key_of(kind: MatchedOn, text: str | None) -> bytes | None:
        return None if text is None else seal.key_of(f"{kind}|{text}")[:_HASH_BYTES]

    email = normal_email(contact.email)
    name = normal_name(contact.name)
    return Evidence(
        contact.profile_id,
        key_of("email", email),
        key_of("phone", normal_phone(contact.phone, suggest.region)),
        key_of("local_part", _telling_local_part(email)),
        # The first two letters of every part: most mistypings come later.
        key_of("name", None if name is None else " ".join(part[:2] for part in name.split())),
        () if name is None else _pairs(name, seal),
        contact.at_ms,
    )


def normal_email(value: Scalar) -> str | None:
    """An e-mail address as its mailbox reads it; None where it is not one. No look-up is made.

    >>> normal_email("Ann.Lee+news@GoogleMail.com")
    'annlee@gmail.com'
    """
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        return None
    try:
        parts = validate_email(value.strip(), check_deliverability=False)
    except EmailNotValidError:
        return None
    local, domain = parts.local_part.casefold(), parts.domain.casefold()
    local = local.partition("+")[0] or local
    if domain in _GMAIL:
        local, domain = local.replace(".", ""), "gmail.com"
    return f"{local}@{domain}"


def normal_phone(value: Scalar, region: str | None) -> str | None:
    """A phone number in international form (E.164); None where it is not one.

    >>> normal_phone("030 901820", "DE")
    '+4930901820'
    """
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        return None
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def normal_name(value: Scalar) -> str | None:
    """A name's parts without accents and case, in order of text; None for a single part.

    >>> normal_name("Müller, José")
    'jose muller'
    """
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        return None
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", value.casefold())
        if not unicodedata.combining(letter)
    )
    parts = sorted(_NOT_IN_NAMES.sub(" ", plain).split())
    return " ".join(parts)[:_MOST_NAME] if len(parts) > 1 else None


def block_group(key: bytes) -> int:
    """The group of a block."""
    return key[0] % GROUPS


def similarity(one: Evidence, other: Evidence) -> float | None:
    """How alike two names are, 0 to 1; None where a name is missing."""
    if not one.pairs or not other.pairs:
        return None
    return float(Indel.normalized_similarity(one.pairs, other.pairs))


def weigh(one: Evidence, other: Evidence) -> tuple[float, list[MatchedOn]]:
    """(score from 0 to 1, what matched) of two profiles."""
    shared = dict(other.blocks())
    matched: list[MatchedOn] = [
        kind for kind, key in one.blocks() if kind != "name" and shared.get(kind) == key
    ]
    if "email" in matched and "local_part" in matched:
        matched.remove("local_part")  # says nothing that the whole address does not say
    against = 1.0
    for kind in matched:
        against *= 1.0 - WEIGHTS[kind]
    alike = similarity(one, other)
    if alike is not None and alike >= ALIKE:
        matched.append("name")
        against *= 1.0 - WEIGHTS["name"] * alike
    score = 1.0 - against
    if alike is not None and alike < UNLIKE:
        score *= _CONTRADICTED
    return round(score, 4), matched


class _Wire(msgspec.Struct, array_like=True):
    group: int
    mark: int
    known: dict[str, Evidence]
    blocks: dict[bytes, list[str]]
    suggested: dict[bytes, int]


class DuplicateGroup:
    """The machine of one block group; pure. Every group is told of every profile."""

    def __init__(self, number: int, suggest: Suggest, seal: Seal) -> None:
        self.number = number
        self._suggest = suggest
        self._seal = seal
        self._known: dict[str, Evidence] = {}
        self._blocks: dict[bytes, list[str]] = {}
        self._suggested: dict[bytes, int] = {}

    def process(self, evidence: Evidence) -> list[Record]:
        """Take over what is known of a profile now; suggestions that follow, of pairs not yet made.

        Two profiles are compared in the strongest block that they share and in no other, so that a
        pair is suggested once; again only where stronger evidence brings them together later.
        """
        profile_id = evidence.profile_id
        former = self._known.get(profile_id)
        if former is not None and former[:-1] == evidence[:-1]:
            return []
        if former is not None:
            self._forget(former, erased=not evidence.blocks())
        own = [(k, key) for k, key in evidence.blocks() if block_group(key) == self.number]
        if not own:
            return []
        records = []
        self._known[profile_id] = evidence
        for kind, key in own:
            block = self._blocks.setdefault(key, [])
            for other in block:
                record = self._compare(kind, evidence, self._known[other])
                if record is not None:
                    records.append(record)
            block.append(profile_id)
            if len(block) > MOST_IN_BLOCK:
                self._leave(block[0], key)
        if len(self._known) > MOST_PROFILES:
            self._forget(next(iter(self._known.values())), erased=False)
        return records

    def _compare(self, kind: MatchedOn, one: Evidence, other: Evidence) -> Record | None:
        shared = dict(other.blocks())
        strongest = next(k for k, key in one.blocks() if shared.get(k) == key)
        if strongest != kind:
            return None
        score, matched = weigh(one, other)
        if score < self._suggest.at_least or not matched:
            return None
        first, second = sorted((one.profile_id, other.profile_id))
        pair = self._pair(first, second)
        if pair in self._suggested:
            return None
        self._suggested[pair] = one.at_ms
        if len(self._suggested) > MOST_SUGGESTED:
            del self._suggested[next(iter(self._suggested))]
        identity = blake2b(f"suggestion|{first}\0{second}".encode(), digest_size=12)
        return {
            "suggestion_id": identity.hexdigest(),
            "profile_a": first,
            "profile_b": second,
            "score": score,
            "matched_on": matched,
            "suggested_at": rfc3339(one.at_ms),
            "schema_version": SUGGESTION_VERSION,
        }

    def _pair(self, one: str, other: str) -> bytes:
        first, second = sorted((one, other))
        return self._seal.key_of(f"pair|{first}\0{second}")[:_HASH_BYTES]

    def _forget(self, evidence: Evidence, *, erased: bool) -> None:
        profile_id = evidence.profile_id
        for _, key in evidence.blocks():
            block = self._blocks.get(key, [])
            if profile_id in block:
                if erased:
                    for other in block:
                        self._suggested.pop(self._pair(profile_id, other), None)
                self._leave(profile_id, key)
        self._known.pop(profile_id, None)

    def _leave(self, profile_id: str, key: bytes) -> None:
        block = self._blocks[key]
        block.remove(profile_id)
        if not block:
            del self._blocks[key]
        keys = [key for _, key in self._known[profile_id].blocks()]
        if not any(profile_id in self._blocks.get(key, ()) for key in keys):
            del self._known[profile_id]

    def snapshot(self) -> bytes:
        """The whole state as versioned, sealed bytes; equal states give equal bytes."""
        wire = _Wire(self.number, self._seal.mark, self._known, self._blocks, self._suggested)
        return encode_state(wire, self._seal, magic=MAGIC, version=VERSION)


def restored_duplicates(snapshot: bytes, *, suggest: Suggest, seal: Seal) -> DuplicateGroup:
    """The group that a snapshot is of; raises StateError where it cannot be read.

    Under another secret nothing held can be compared with what comes: it begins anew.
    """
    wire = decode_state(snapshot, seal, _Wire, magic=MAGIC, version=VERSION)
    group = DuplicateGroup(wire.group, suggest, seal)
    if wire.mark == seal.mark:
        group._known = wire.known
        group._blocks = wire.blocks
        group._suggested = wire.suggested
    return group


def _telling_local_part(email: str | None) -> str | None:
    local = "" if email is None else email.partition("@")[0]
    return local if len(local) >= _SHORT_LOCAL and local not in _SHARED_LOCAL else None


def _pairs(name: str, seal: Seal) -> tuple[int, ...]:
    padded = f" {name} "
    return tuple(
        int.from_bytes(seal.key_of(f"pair|{padded[i : i + 2]}")[:4], "big")
        for i in range(len(padded) - 1)
    )
