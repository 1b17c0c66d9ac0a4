"""What does the simulated shop decide by: its policy file, made ready over its own catalogue.

Apart from `flows.demo`, because the live flow needs it too and must not load plotting libraries.
"""

from __future__ import annotations

from importlib.resources import files

from flows.load import ConfigError, plan_of
from flows.simulate.shop import Shop
from operators.plan import Plan
from schemas.catalogue import Content
from schemas.check import load_policy

SEED = 1
"""The seed of the shop that stands in where no files are configured."""


def shop_policy() -> str:
    """The text of the policy that comes with the simulated shop."""
    return files("flows.shop").joinpath("policy.yaml").read_text()


def shop_plan(shop: Shop, policy_text: str) -> Plan:
    """The plan of a policy over the shop's catalogue; raises ConfigError with every mistake."""
    policy, mistakes = load_policy(policy_text, name="policy.yaml")
    if policy is None:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))
    return plan_of(policy, [Content.model_validate(record) for record in shop.catalogue()])
