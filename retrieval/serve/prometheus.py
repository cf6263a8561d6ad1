"""The metrics that Prometheus reads at /metrics."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service, in a registry of their own; of all its workers, where it has several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("skipwise_requests", "Requests answered", ["path", "code"], registry=self.registry)
        self.seconds = Histogram(
            "skipwise_request_seconds", "From head to last byte", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "skipwise_batch_size", "Requests answered together", ["kind"], buckets=_SIZES, registry=self.registry
        )
        self.queue_depth = Gauge(
            "skipwise_queue_depth", "Requests that wait", ["kind"], registry=self.registry, multiprocess_mode="livesum"
        )
        self.generation = Gauge(
            "skipwise_export_generation",
            "Exports loaded so far under a name; the fewest of all workers",
            ["export"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.delta = Gauge(
            "skipwise_delta",
            "Number of the last delta applied; the lowest of all workers",
            ["export"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.delta_lag = Gauge(
            "skipwise_delta_lag_seconds",
            "From the landing of the data to their rows in service, at the last delta",
            ["export"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.delta_failures = Counter(
            "skipwise_delta_failures", "Deltas that were refused", ["export"], registry=self.registry
        )
        self.reload_failures = Counter(
            "skipwise_reload_failures", "Newer exports that were refused", ["export"], registry=self.registry
        )

    def text(self) -> bytes:
        """In Prometheus' format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
