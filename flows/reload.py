"""What of a live run's settings and metrics belongs to hot reload?

The wiring between `flows.live` and `flows.versions`: which topics, how often, and what is shown.
"""

from __future__ import annotations

from flows.settings import Settings
from flows.telemetry import Telemetry
from flows.versions import Versions
from operators.plan import Plan


def version_topics(settings: Settings) -> list[str]:
    """The topics of policies and of the catalogue; none where files alone are used."""
    return [settings.topic(name) for name in ("policies", "catalogue")] if settings.reload else []


def versions_of(settings: Settings, telemetry: Telemetry) -> Versions | None:
    """Follows what is published, watched by the metrics; None where files alone are used."""
    if not settings.reload:
        return None
    policies, catalogue = version_topics(settings)
    versions = Versions(
        settings.kafka,
        policies=policies,
        catalogue=catalogue,
        every_s=settings.reload_every_s,
        told=lambda outcome: telemetry.count("versions_total", outcome=outcome),
    )
    telemetry.watch("versions_confirmed_age_seconds", lambda: versions.confirmed_age_s)
    telemetry.watch("versions_refused", lambda: float(versions.trouble is not None))
    return versions


def show_in_force(telemetry: Telemetry, plan: Plan) -> None:
    """Have the metrics name the policy in force, and no former one."""
    telemetry.forget("build_info")
    telemetry.set(
        "build_info", 1, version="0.1.0", policy=plan.policy.name, policy_digest=plan.policy_digest
    )
