"""How processes share what they learn: parameter sets through Redis, never waited for.

Key: `nextbest:parameters:{model}`, a HASH `{v: incarnation.counter, d: bytes of the set}`. The
process that learns a model publishes; all processes look for a newer `v` a few times a second and
fetch `d` only then. A set of an older incarnation never replaces one of a newer, so a process that
comes back from the dead cannot undo what its successor learned. Redis down: the last sets stay in
use and their age shows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Final, cast

import redis

from flows.errors import ConnectorError
from flows.redis.connection import connect, error_reason, redis_address
from flows.redis.writes import run_script
from flows.telemetry import NoTelemetry, Telemetry
from operators.parameters import ParameterError, ParameterSet, decode_parameters

_LOG: Final = logging.getLogger(__name__)

# Bytes are compared one by one: `<` on strings follows the server's locale, which is not ours.
_PUBLISH: Final = """
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local held = redis.call('HGET', KEYS[1], 'v')
if held then
  local life, counter = string.match(held, '^(.*)%.(%d+)$')
  if life == ARGV[1] then
    if tonumber(counter) == tonumber(ARGV[2]) then return {1} end
    if tonumber(counter) > tonumber(ARGV[2]) then return {2} end
  elseif life and before(ARGV[1], life) then
    return {2}
  end
end
redis.call('HSET', KEYS[1], 'v', ARGV[1] .. '.' .. ARGV[2], 'd', ARGV[3])
return {0}
"""
_STALE: Final = 2


def parameters_key(model: str, *, prefix: str = "nextbest") -> str:
    """Where the newest parameter set of a model is."""
    return f"{prefix}:parameters:{model}"


def order_of(parameters: ParameterSet) -> tuple[str, int]:
    """What decides which of two sets is newer: the learner's life, then the count within it."""
    return parameters.incarnation, parameters.counter


class RedisParameters:
    """A parameter store shared by processes; `latest` is a dict look-up and never waits.

    `incarnation` of a published set must sort (as bytes) after every earlier one of its model: take
    it from the clock, and make it later than that of the set `load_all` found, or a learner on a
    machine whose clock is behind would be refused. `models` are fetched by `load_all`; a model
    first asked for later is looked for from then on.
    """

    def __init__(
        self,
        url: str,
        *,
        models: Iterable[str] = (),
        prefix: str = "nextbest",
        telemetry: Telemetry | None = None,
        poll_s: float = 0.2,
        close_wait_s: float = 5.0,
    ) -> None:
        self._url = url
        self._client = connect(url)
        self._prefix = prefix
        self._telemetry = telemetry or NoTelemetry()
        self._poll_s = poll_s
        self._close_wait_s = close_wait_s
        self._current: dict[str, ParameterSet] = {}
        self._lock = threading.Condition()
        self._arrived: dict[str, float] = {}
        self._seen: dict[str, bytes] = {}
        self._outbox: dict[str, ParameterSet] = {}
        self._published: dict[str, ParameterSet] = {}
        self._confirmed = time.monotonic()
        self._down = False
        self._closing = False
        self._bug: BaseException | None = None
        self._models = dict.fromkeys(models)
        self._telemetry.watch("parameters_confirmed_age_seconds", self.confirmed_age_s)
        self._thread = threading.Thread(target=self._run, name="redis-parameters", daemon=True)

    def latest(self, model: str) -> ParameterSet | None:
        """The newest set known to this process, or None where none was ever published."""
        found = self._current.get(model)
        if found is None and model not in self._models:
            self._models[model] = None
        return found

    def publish(self, parameters: ParameterSet) -> None:
        """Use a set at once in this process, and let the others have it soon."""
        if self._bug is not None:
            raise RuntimeError("the thread that exchanges parameters ended by a bug") from self._bug
        with self._lock:
            newest = self._adopt(parameters)
            if newest:
                self._outbox[parameters.model] = parameters
                self._published[parameters.model] = parameters
                self._start()
                self._lock.notify_all()
        if not newest:
            self._stale(parameters)

    def load_all(self) -> tuple[str, ...]:
        """Fetch every model's set before the first event; the models that had one.

        Starts the exchange with other processes. Raises ConnectorError where Redis cannot be asked.
        """
        try:
            with connect(self._url, timeout_s=5.0) as client:
                self._poll(client)
        except redis.RedisError as error:
            raise ConnectorError(
                f"Redis at {redis_address(self._url)} gave no parameter sets: {error}"
            ) from error
        with self._lock:
            self._start()
        return tuple(self._current)

    def age_s(self, model: str) -> float:
        """Seconds since the set in use came; infinite where there is none."""
        arrived = self._arrived.get(model)
        return float("inf") if arrived is None else time.monotonic() - arrived

    def confirmed_age_s(self) -> float:
        """Seconds since Redis last said what the newest sets are."""
        return time.monotonic() - self._confirmed

    def close(self) -> None:
        """Send what was published, for a bounded time, and stop the exchange."""
        with self._lock:
            started = self._thread.ident is not None
            if started:
                self._lock.wait_for(lambda: not self._outbox or self._down, self._close_wait_s)
            self._closing = True
            self._lock.notify_all()
        if started:
            self._thread.join(self._close_wait_s)

    def _start(self) -> None:
        if self._thread.ident is None and not self._closing:
            self._thread.start()

    def _adopt(self, parameters: ParameterSet) -> bool:
        """Take a set into use unless a newer one is; the lock is held."""
        held = self._current.get(parameters.model)
        if held is not None and order_of(parameters) <= order_of(held):
            return False
        model = parameters.model
        if model not in self._arrived:
            self._telemetry.watch("parameters_age_seconds", lambda: self.age_s(model), model=model)
        self._arrived[model] = time.monotonic()
        self._models.setdefault(model)
        self._current[model] = parameters
        return True

    def _run(self) -> None:
        try:
            self._exchange()
        except BaseException as error:
            self._bug = error
            raise
        finally:
            self._client.close()

    def _exchange(self) -> None:
        while not self._closing:
            try:
                self._send()
                self._poll(self._client)
            except redis.RedisError as error:
                self._failed(error)
            with self._lock:
                # A new set goes out at once, unless Redis is down: then each poll is one try.
                self._lock.wait_for(
                    lambda: self._closing or (bool(self._outbox) and not self._down),
                    self._poll_s,
                )

    def _send(self) -> None:
        with self._lock:
            waiting = list(self._outbox.values())
        for parameters in waiting:
            # Encoded here and not by the flow: compressing a large set takes milliseconds.
            answer = run_script(
                self._client,
                _PUBLISH,
                [parameters_key(parameters.model, prefix=self._prefix)],
                [parameters.incarnation, parameters.counter, parameters.encoded],
            )[0]
            with self._lock:
                if self._outbox.get(parameters.model) is parameters:
                    del self._outbox[parameters.model]
                if answer != _STALE:
                    self._seen[parameters.model] = _version(parameters)
                else:
                    self._published.pop(parameters.model, None)
                self._lock.notify_all()
            if answer == _STALE:
                self._stale(parameters)

    def _stale(self, parameters: ParameterSet) -> None:
        self._telemetry.count("redis_errors_total", reason="stale_parameters")
        _LOG.warning(
            "parameters of %s are older than those in Redis and were not published: "
            "another learner of this model is running, or this clock is behind",
            parameters.model,
        )

    def _poll(self, client: redis.Redis) -> None:
        models = list(self._models)
        pipeline = client.pipeline(transaction=False)
        for model in models:
            pipeline.hget(parameters_key(model, prefix=self._prefix), "v")
        # Only versions travel here; a set is some hundred kilobytes and changes rarely.
        versions = cast(list[bytes | None], pipeline.execute())
        for model, version in zip(models, versions, strict=True):
            if version is not None and version != self._seen.get(model):
                self._fetch(client, model)
        with self._lock:
            for model, version in zip(models, versions, strict=True):
                if version is None and (lost := self._published.get(model)):
                    # Redis came back empty: whoever learned a set puts it there again.
                    self._outbox.setdefault(model, lost)
            recovered, self._down = self._down, False
            self._confirmed = time.monotonic()
        if recovered:
            _LOG.warning("Redis at %s answers again", redis_address(self._url))

    def _fetch(self, client: redis.Redis, model: str) -> None:
        key = parameters_key(model, prefix=self._prefix)
        version, payload = cast(list[bytes | None], client.hmget(key, ["v", "d"]))
        if version is None or payload is None:
            return
        try:
            parameters = decode_parameters(payload)
            if parameters.model != model:
                raise ParameterError(f"the set names model {parameters.model}")
        except ParameterError as error:
            self._telemetry.count("redis_errors_total", reason="damaged_parameters")
            _LOG.error("parameters of %s in Redis cannot be read: %s", model, error)
        else:
            with self._lock:
                self._adopt(parameters)
        # A set that cannot be read is not fetched again and again either.
        self._seen[model] = version

    def _failed(self, error: redis.RedisError) -> None:
        self._telemetry.count("redis_errors_total", reason=error_reason(error))
        with self._lock:
            known, self._down = self._down, True
            self._lock.notify_all()
        if not known:
            _LOG.warning(
                "Redis at %s fails (%s); the last parameters stay in use",
                redis_address(self._url),
                type(error).__name__,
            )


def _version(parameters: ParameterSet) -> bytes:
    return f"{parameters.incarnation}.{parameters.counter}".encode()
