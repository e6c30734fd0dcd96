"""What operators see of a running node: Prometheus metrics and the log.

No label ever names a key, a service or an address: metrics must not become a second, unguarded
ledger. The log is JSON Lines on standard error and never holds a request, a response or an
exception's arguments.
"""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from dox_core_store.server.usecases.shipping import FollowerState

__all__ = ["Condition", "NodeMetrics", "TokenCounts", "configure_log", "report_exception"]


def configure_log(level: str) -> structlog.stdlib.BoundLogger:
    """The process's log."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


class _Unfailing:
    """Standard error, except that a full disk or a closed pipe costs a line and nothing else."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def report_exception(log: Any) -> Callable[[BaseException, str], None]:
    """Logs a fault of ours by type and place; never by message, which may quote a value."""

    def report(error: BaseException, request_id: str) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-5:]
        log.error(
            "internal_error",
            request_id=request_id,
            kind=type(error).__name__,
            at=[f"{frame.name}:{frame.lineno}" for frame in frames],
        )

    return report


class Condition(NamedTuple):
    """What a node watches beside its requests, as it is now."""

    ballast_bytes: int = 0
    disk_full: bool = False
    clock_step_seconds: float = 0.0
    epoch: int = 1
    history_lost: int = 0
    store_bytes: int = 0
    store_limit_bytes: int = 0


class TokenCounts(NamedTuple):
    """Tokens that expire within so many days; how often a token came from where it may not."""

    expiring: Mapping[int, int]
    from_elsewhere: int


class NodeMetrics(Collector):
    """Collects at scrape time from what the node counts anyway."""

    def __init__(
        self,
        *,
        door: Any,
        waiting: Callable[[], int],
        feed: Callable[[], int],
        alarms: Callable[[], int],
        condition: Callable[[], Condition] = Condition,
        sealed: bool = False,
        backups: Callable[[], tuple[float, float, int]] = lambda: (math.inf, math.inf, 0),
        sinks: Callable[[], Sequence[FollowerState]] = tuple,
        tokens: Callable[[], TokenCounts] = lambda: TokenCounts({}, 0),
        rejections: Callable[[], int] = lambda: 0,
        streams: Callable[[], int] = lambda: 0,
    ) -> None:
        self._door = door
        self._waiting = waiting
        self._feed = feed
        self._alarms = alarms
        self._condition = condition
        self._sealed = sealed
        self._backups = backups
        self._sinks = sinks
        self._tokens = tokens
        self._rejections = rejections
        self._streams = streams
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        door = self._door
        requests = CounterMetricFamily(
            "doxstore_door_requests", "Requests at the door, by outcome.", labels=["code"]
        )
        for code, count in sorted(door.outcomes.items()):
            requests.add_metric([code], count)
        yield requests
        yield CounterMetricFamily(
            "doxstore_values_revealed", "Values that left the door.", value=door.values
        )
        buckets, total = [], 0
        for bound, count in zip((*door.BUCKETS, float("inf")), door.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        yield HistogramMetricFamily(
            "doxstore_door_seconds", "Time at the door.", buckets=buckets, sum_value=door.seconds
        )
        yield GaugeMetricFamily(
            "doxstore_ledger_waiting", "Requests waiting for the ledger.", value=self._waiting()
        )
        yield GaugeMetricFamily(
            "doxstore_feed_applied", "Position in the change feed.", value=self._feed()
        )
        yield GaugeMetricFamily(
            "doxstore_event_streams", "Clients that follow changes.", value=self._streams()
        )
        yield CounterMetricFamily(
            "doxstore_integrity_alarms", "Rows whose MAC did not hold.", value=self._alarms()
        )
        yield GaugeMetricFamily(
            "doxstore_sealed",
            "1 while nothing is served, because the store is not open.",
            value=float(self._sealed),
        )
        now = self._condition()
        yield GaugeMetricFamily(
            "doxstore_ballast_bytes", "Room kept for a full disk.", value=now.ballast_bytes
        )
        yield GaugeMetricFamily(
            "doxstore_disk_full", "1 while the disk is full.", value=float(now.disk_full)
        )
        yield GaugeMetricFamily(
            "doxstore_clock_step_seconds",
            "By how much the wall clock was set since the node started.",
            value=now.clock_step_seconds,
        )
        yield GaugeMetricFamily("doxstore_epoch", "The store's epoch.", value=now.epoch)
        yield CounterMetricFamily(
            "doxstore_history_lost",
            "Times that the database was found behind what was seen of it.",
            value=now.history_lost,
        )
        yield GaugeMetricFamily(
            "doxstore_store_bytes", "Pages of the database in use.", value=now.store_bytes
        )
        yield GaugeMetricFamily(
            "doxstore_store_limit_bytes",
            "What they may come to; 0: there is no limit.",
            value=now.store_limit_bytes,
        )
        backup_age, drill_age, failures = self._backups()
        yield GaugeMetricFamily(
            "doxstore_backup_age_seconds", "Since the last backup; +Inf: none.", value=backup_age
        )
        yield GaugeMetricFamily(
            "doxstore_drill_age_seconds", "Since the last drill; +Inf: none.", value=drill_age
        )
        yield CounterMetricFamily(
            "doxstore_backup_failures", "Backups on the schedule that failed.", value=failures
        )
        tokens = self._tokens()
        expiring = GaugeMetricFamily(
            "doxstore_tokens_expiring", "Tokens that expire within so many days.", labels=["days"]
        )
        for days, count in sorted(tokens.expiring.items()):
            expiring.add_metric([str(days)], count)
        yield expiring
        yield CounterMetricFamily(
            "doxstore_tokens_from_elsewhere",
            "Times that a token came from an address it is not bound to.",
            value=tokens.from_elsewhere,
        )
        yield CounterMetricFamily(
            "doxstore_rejections",
            "Times that a reader said that a value was refused where it is for.",
            value=self._rejections(),
        )
        yield from self._collect_sinks()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield GaugeMetricFamily(
            "doxstore_peak_memory_bytes", "Peak resident memory.", value=usage.ru_maxrss * 1024
        )
        yield CounterMetricFamily(
            "doxstore_cpu_seconds", "Processor time.", value=usage.ru_utime + usage.ru_stime
        )

    def _collect_sinks(self) -> Iterator[Any]:
        """Destinations by kind and number: an address may say more than metrics should."""
        labels = ["sink", "number", "required"]
        behind = GaugeMetricFamily(
            "doxstore_sink_behind_seconds", "Age of the oldest unshipped entry.", labels=labels
        )
        shipped = CounterMetricFamily("doxstore_sink_shipped", "Entries shipped.", labels=labels)
        failures = CounterMetricFamily(
            "doxstore_sink_failures", "Batches that a sink did not take.", labels=labels
        )
        for each in self._sinks():
            named = [each.kind, str(each.number), "yes" if each.required else "no"]
            behind.add_metric(named, each.behind_seconds)
            shipped.add_metric(named, each.shipped)
            failures.add_metric(named, each.failures)
        yield from (behind, shipped, failures)
