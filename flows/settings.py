"""Everything a live run can be told, read once from the environment (`NEXTBEST_*`) and flags.

One frozen tree, bounded by types; secrets are masked when shown. A flag wins over the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.errors import NextbestError
from flows.kafka.connection import KafkaConnection, SecurityProtocol
from flows.personalize import DEFAULT_SHARDS


class SettingsError(NextbestError):
    """A setting that is missing or out of bounds; the message names each one."""

    exit_code = 2


class Settings(BaseSettings):
    """Settings of `nextbest run` and of the commands that talk to its servers."""

    model_config = SettingsConfigDict(
        env_prefix="NEXTBEST_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="Comma-separated host:port."
    )
    kafka_security_protocol: SecurityProtocol = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_ssl_password: SecretStr | None = None
    topic_prefix: str = Field(default="", description="Put before every topic's name.")
    redis_url: SecretStr | None = Field(
        default=None, description="redis://…; absent: nothing is served and one process only."
    )
    redis_prefix: str = Field(default="nextbest", description="Put before every Redis key.")
    policy: Path | None = Field(default=None, description="Absent: the simulated shop's.")
    catalogue: Path | None = Field(default=None, description="Absent: the simulated shop's.")
    reload: bool = Field(
        default=True,
        description="Use what `nextbest publish` published, also while running; false: files only.",
    )
    reload_every_s: Annotated[float, Field(ge=0.1, le=3_600)] = Field(
        default=1.0, description="Seconds between two looks for a newer publication."
    )
    recovery_dir: Path = Field(default=Path("recovery"), description="Where state is kept.")
    pseudonym_key: SecretStr | None = Field(
        default=None, description="Seals the state; absent: pseudonym_key_file."
    )
    pseudonym_key_file: Path | None = Field(
        default=None, description="Absent: pseudonym.key in recovery_dir, made at the first start."
    )
    former_pseudonym_key: SecretStr | None = Field(
        default=None, description="Opens state sealed before the key was replaced."
    )
    recovery_partitions: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Files of the recovery store; fixed when it is made."
    )
    snapshot_every_s: Annotated[int, Field(ge=1, le=3_600)] = Field(
        default=10, description="Seconds between snapshots (the engine's epoch)."
    )
    shards: Annotated[int, Field(ge=1, le=4_096)] = Field(
        default=DEFAULT_SHARDS, description="Fixed once state exists."
    )
    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where a flow without state begins to read."
    )
    batch_records: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    telemetry_host: str = "127.0.0.1"
    telemetry_port: Annotated[int, Field(ge=0, le=65_535)] = 8_080
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def kafka(self) -> KafkaConnection:
        """How Kafka is reached."""
        return KafkaConnection(
            bootstrap_servers=self.kafka_bootstrap_servers,
            security_protocol=self.kafka_security_protocol,
            sasl_mechanism=self.kafka_sasl_mechanism,
            sasl_plain_username=self.kafka_sasl_username,
            sasl_plain_password=_secret(self.kafka_sasl_password),
            ssl_cafile=self.kafka_ssl_cafile,
            ssl_certfile=self.kafka_ssl_certfile,
            ssl_keyfile=self.kafka_ssl_keyfile,
            ssl_password=_secret(self.kafka_ssl_password),
        )

    @property
    def redis(self) -> str | None:
        """The Redis address, password included; None where there is no Redis."""
        return _secret(self.redis_url)

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return self.topic_prefix + name


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def read_settings(**flags: Any) -> Settings:
    """The settings of the environment, with the flags given (None: not given) on top.

    Raises SettingsError naming every setting that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        wrong = [
            f"NEXTBEST_{'.'.join(str(part) for part in e['loc']).upper()}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(wrong)) from None
