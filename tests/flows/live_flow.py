"""A live flow that a test owns: its topics, its settings and the processes that run it.

Each process is `python -m flows.cli run`, as an operator would start it; its log is a file. Nothing
outlives the `with` block of `live_flow`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from flows.kafka.admin import default_topics, ensure_topics
from tests.kafka_topics import connection_to, eventually

ROOT = Path(__file__).parents[2]
LIVE = Path(__file__).parent / "data" / "live"
PARTITIONS = 4
_PORT = re.compile(r"metrics and health on http://127\.0\.0\.1:(\d+)")


def command(*words: str, module: str = "flows.cli") -> list[str]:
    return [sys.executable, "-m", module, *words]


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with no settings but those given, as NEXTBEST_*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXTBEST_")}
    return kept | {f"NEXTBEST_{name.upper()}": str(value) for name, value in settings.items()}


class Running:
    """One process of a live flow."""

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                list(words), cwd=ROOT, env=dict(env), stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def await_said(self, text: str, *, timeout_s: float = 60.0) -> None:
        self._await(lambda: text in self.said, what=f"{text!r} in its log", timeout_s=timeout_s)

    def await_ready(self, *, timeout_s: float = 60.0) -> None:
        self._await(
            lambda: _PORT.search(self.said) is not None and self.get("/readyz")[0] == 200,
            what="a ready flow",
            timeout_s=timeout_s,
        )

    def _await(self, condition: object, *, what: str, timeout_s: float) -> None:
        assert callable(condition)

        def reached() -> bool:
            met = bool(condition())
            assert met or self.process.poll() is None, f"ended with no {what}:\n{self.said}"
            return met

        eventually(reached, what=what, timeout_s=timeout_s)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the telemetry server; 0 where nobody answers."""
        found = _PORT.search(self.said)
        assert found is not None, self.said
        try:
            with urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (URLError, OSError):
            return 0, ""

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric by their labels, as the scrape writes them."""
        page = self.get("/metrics")[1]
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {
            sample.removeprefix(name): float(value)
            for sample, _, value in lines
            if sample.partition("{")[0] == name
        }

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, *, within_s: float = 30.0) -> int:
        """The exit code after SIGTERM; a flow must end within 30 s."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


def read_to_the_end(processes: Sequence[Running]) -> bool:
    """Whether the processes of a flow, together, have read every partition to its end."""
    lags = [
        lag
        for process in processes
        for lag in process.metric("nextbest_kafka_consumer_lag_records").values()
    ]
    return len(lags) == PARTITIONS and sum(lags) == 0


@dataclass
class LiveFlow:
    """The topics and settings of one flow, and every process that was started of it."""

    bootstrap: str
    prefix: str
    directory: Path
    redis_url: str | None
    policy: Path = LIVE / "policy.yaml"
    catalogue: Path = LIVE / "catalogue.yaml"
    settings: dict[str, object] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.directory / "recovery"

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def env(self, **settings: object) -> dict[str, str]:
        """The environment of a process of the flow; a setting that is None is left out."""
        given: dict[str, object] = {
            "kafka_bootstrap_servers": self.bootstrap,
            "topic_prefix": f"{self.prefix}.",
            "redis_prefix": self.prefix,
            "policy": self.policy,
            "catalogue": self.catalogue,
            "recovery_dir": self.store,
            "snapshot_every_s": 1,
            "shards": 16,
            "telemetry_port": 0,
        }
        if self.redis_url is not None:
            given["redis_url"] = self.redis_url
        given |= self.settings | settings
        return environment(**{name: value for name, value in given.items() if value is not None})

    def start(
        self,
        *words: str,
        module: str = "flows.cli",
        env: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Running:
        """`nextbest run` with the flow's settings; does not wait."""
        log = self.directory / f"run-{len(self.started)}.log"
        running = Running(
            command("run", *words, module=module),
            env=self.env(**settings) | dict(env or {}),
            log=log,
        )
        self.started.append(running)
        return running

    def call(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Another command with the flow's settings, run to its end."""
        return subprocess.run(
            command(*words),
            cwd=ROOT,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def live_flow(
    bootstrap: str,
    *,
    prefix: str,
    directory: Path,
    redis_url: str | None,
    **settings: object,
) -> Iterator[LiveFlow]:
    """A flow with its topics made; whatever still runs of it at the end is killed."""
    flow = LiveFlow(bootstrap, prefix, directory, redis_url, settings=dict(settings))
    ensure_topics(
        connection_to(bootstrap), default_topics(prefix=f"{prefix}.", partitions=PARTITIONS)
    )
    try:
        yield flow
    finally:
        for running in flow.started:
            if running.process.poll() is None:
                running.kill()
