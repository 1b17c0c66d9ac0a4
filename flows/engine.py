"""How is a flow run by Bytewax, ended by a signal, and why did it end?

One worker in each process: threads share the interpreter's lock and are slower than one. Several
processes form the engine's own cluster. State: the stop flag, and the first error of this process.
It does not know what the flow does.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType, GeneratorType
from typing import Any, Final, NoReturn

from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import AbortExecution
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main, run_main

from flows.errors import NextbestError
from flows.recovery import install_restricted_unpickler

_LOG: Final = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Whether the flow was asked to end; give it to the sources as `stop`."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        """Whether the flow was asked to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the flow to end: the sources finish, the epoch closes with a snapshot."""
        self._event.set()


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGTERM and SIGINT set; a second signal ends the process at once.

    Trap: without it SIGTERM kills in the middle of an epoch, and a handler that raises does the
    same; only sources that end by themselves close the epoch. Call it in the main thread. In a
    cluster every process must be signalled: the engine runs on while any source does.
    """
    stop = StopFlag()
    former = {number: signal.getsignal(number) for number in _SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run_flow(
    flow: Dataflow,
    *,
    process_id: int = 0,
    addresses: Sequence[str] = (),
    epoch_interval: timedelta = timedelta(seconds=10),
    recovery_dir: Path | None = None,
    allow: Sequence[type] = (),
) -> None:
    """Run `flow` to its end in this process, alone or as one of `addresses`.

    With `recovery_dir` (an initialised store) it resumes from the last closed epoch. What is loaded
    from there or comes from other processes must be plain data, or of a class in `allow`.

    Raises the error that ended the flow as it was raised, NextbestError where it was not this
    process that failed.
    """
    # The engine panics on the way out and Rust would print a backtrace of its own inside.
    os.environ["RUST_BACKTRACE"] = "0"
    recovery = None
    if recovery_dir is not None:
        # Backups count on no old snapshot: more than the newest would only slow the resume.
        recovery = RecoveryConfig(  # type: ignore[no-untyped-call]
            str(recovery_dir), backup_interval=timedelta(0)
        )
    cluster = len(addresses) > 1
    failures = _Failures()
    if cluster:
        failures.watch(flow)
    restore = install_restricted_unpickler(allow=allow)
    thresholds = gc.get_threshold()
    # What was compiled at the start lives as long as the flow, and what a batch makes dies with it
    # without a collector's help: with the defaults the collector walks every hot profile again and
    # again (5 to 10 % of the whole, measured).
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    try:
        if cluster:
            cluster_main(  # type: ignore[no-untyped-call]
                flow,
                list(addresses),
                process_id,
                epoch_interval=epoch_interval,
                recovery_config=recovery,
                worker_count_per_proc=1,
            )
        else:
            run_main(  # type: ignore[no-untyped-call]
                flow, epoch_interval=epoch_interval, recovery_config=recovery
            )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a PanicException of the engine is not an Exception
        ended_by = failures.first or _original(error)
        if isinstance(error, BytewaxRuntimeError):
            _LOG.error("%s: %s", error, ended_by)
        if ended_by is None:
            ended_by = NextbestError(
                f"process {process_id} ended because another process of the cluster did, or the "
                f"engine itself failed ({type(error).__name__}: {error}). The log of the process "
                "that ended first says why; after a restart of all of them the flow resumes"
            )
    else:
        return
    finally:
        restore()
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    # Outside the handler, so that the engine's chain does not become the error's context.
    raise ended_by


def leave(code: int) -> NoReturn:
    """End the process with `code`, whatever threads the engine has left behind.

    Trap: after a cluster's panic the interpreter's own way out aborts ("FATAL: exception not
    rethrown", code 134), and the exit code that an operator was promised is lost.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _original(error: BaseException) -> Exception | None:
    """What a step raised, out of the engine's chain of errors; None where the engine panicked."""
    while isinstance(error, BytewaxRuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error if isinstance(error, Exception) else None


class _Failures:
    """Notes the first error raised in this process by a step of the flow.

    Trap: in a cluster the engine drops the error that ends it, and every process prints only "Send
    thread panic: Any". So the callables that the engine will call are watched from the outside.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None

    def watch(self, flow: Dataflow) -> None:
        """Watch every step of `flow`."""
        pending: list[Any] = list(flow.substeps)
        while pending:
            step = pending.pop()
            pending.extend(step.substeps)
            if not getattr(step, "core", False):
                continue
            for name in ("mapper", "predicate", "inspector"):
                if hasattr(step, name):
                    self._replace(step, name, self._noting(getattr(step, name), step.step_id))
            if hasattr(step, "builder"):
                made = ("on_batch", "on_notify", "on_eof", "notify_at", "snapshot")
                builder = self._building(step.builder, made, step.step_id)
                self._replace(step, "builder", builder)
            for name in ("source", "sink"):
                if hasattr(step, name):
                    self._watch_connector(getattr(step, name), step.step_id)

    def _watch_connector(self, connector: Any, step_id: str) -> None:
        made = ("next_batch", "next_awake", "write_batch", "snapshot", "close")
        for name in ("list_parts", "part_fn"):
            if hasattr(connector, name):
                self._replace(connector, name, self._noting(getattr(connector, name), step_id))
        for name in ("build_part", "build"):
            if hasattr(connector, name):
                build = self._building(getattr(connector, name), made, step_id)
                self._replace(connector, name, build)

    def _building(
        self, build: Callable[..., Any], methods: Sequence[str], step_id: str
    ) -> Callable[..., Any]:
        build = self._noting(build, step_id)

        def building(*given: Any, **named: Any) -> Any:
            made = build(*given, **named)
            for name in methods:
                if hasattr(made, name):
                    self._replace(made, name, self._noting(getattr(made, name), step_id))
            return made

        return building

    def _noting(self, call: Callable[..., Any], step_id: str) -> Callable[..., Any]:
        def noting(*given: Any, **named: Any) -> Any:
            try:
                return _run_through(call(*given, **named))
            except (StopIteration, AbortExecution):
                raise
            except Exception as error:
                if self.first is None:
                    self.first = error
                    # A NextbestError says all there is to say; anything else is a bug.
                    trace = None if isinstance(error, NextbestError) else error
                    _LOG.error("step %s: %s", step_id, error or repr(error), exc_info=trace)
                raise

        return noting

    @staticmethod
    def _replace(owner: Any, name: str, value: Callable[..., Any]) -> None:
        # The engine's steps are frozen dataclasses; a class with slots cannot be watched.
        try:
            object.__setattr__(owner, name, value)
        except AttributeError:
            _LOG.debug("%s.%s is not watched", type(owner).__name__, name)


def _run_through(result: Any) -> Any:
    """`result` with its generators run: the engine would do that later, where nobody watches."""
    if isinstance(result, GeneratorType):
        return list(result)
    if type(result) is tuple:
        return tuple(_run_through(part) for part in result)
    return result
