"""Policy and catalogue files made ready to run, or a clear list of what is wrong with them."""

from __future__ import annotations

from pathlib import Path

from flows.check_cli import load_files
from flows.errors import NextbestError
from operators.plan import Plan, compile_plan
from schemas.catalogue import Content
from schemas.digest import catalogue_version, policy_digest
from schemas.policy import Policy


class ConfigError(NextbestError):
    """A policy or a catalogue with mistakes; the message lists them, one a line."""

    exit_code = 2


def load_plan(policy: Path, catalogue: Path) -> Plan:
    """The plan of two files; raises ConfigError with every mistake."""
    checked = load_files(policy, catalogue=catalogue)
    if checked.failed or checked.policy is None or checked.contents is None:
        raise ConfigError("\n".join(str(m) for m in checked.mistakes if m.severity == "error"))
    return plan_of(checked.policy, list(checked.contents))


def plan_of(policy: Policy, contents: list[Content]) -> Plan:
    """The plan of a checked policy and catalogue, named by their digests."""
    return compile_plan(
        policy,
        contents,
        policy_digest=policy_digest(policy),
        catalogue_version=catalogue_version(contents),
    )
