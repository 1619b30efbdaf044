"""Counters in Prometheus' text format: the engine's, read when asked, and who is connected.

Knows only that `Engine.stats()` is a dataclass of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.registry import Collector

from engine.errors import EngineError
from engine.serve.services import Services

# These only ever grow; every other number is a gauge.
_COUNTERS = (
    "tokens_prefilled",
    "tokens_decoded",
    "tokens_drafted",
    "tokens_accepted",
    "kv_tokens_written",
    "steps",
)

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(services: Services) -> bytes:
    """All metrics as they are now."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(services))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        services = self._services
        ready = services.host.health().status == "ready"
        yield _gauge("ready", "1 once the model is loaded", ready)
        yield _gauge("clients", "requests in flight, open event streams among them", services.attendance.clients.here)
        yield _gauge("event_streams", "open event streams", len(services.hub))
        yield _gauge("answers_running", "answers being computed for HTTP clients", len(services.answers))
        yield from _engine_metrics(services)


def _engine_metrics(services: Services) -> Iterator[Metric]:
    try:
        stats = asdict(services.host.engine().stats())
    except EngineError:
        return  # still loading, failed, or stopped: the server's own metrics must do
    for name, value in stats.items():
        if not isinstance(value, (int, float)):
            continue
        if name in _COUNTERS:
            yield CounterMetricFamily(f"ctx_engine_{name}", _words(name), value=value)
        else:
            yield _gauge(name, _words(name), value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ctx_engine_{name}", text, value=value)


def _words(name: str) -> str:
    return name.replace("_", " ")
