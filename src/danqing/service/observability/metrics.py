"""Metrics for Prometheus: requests, times, batches, failures, memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # noise


class Metrics:
    """The metrics of one service, in a registry of its own.

    Times are in seconds. Labels have few values: a route is its template, and a model one that is served;
    they never contain what a client wrote.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        mine = self.registry
        ProcessCollector(registry=mine)
        self._requests = Counter(
            "danqing_requests", "Requests answered.", ("method", "route", "status"), registry=mine
        )
        self._seconds = Histogram(
            "danqing_request_seconds",
            "From a request's first byte to its answer's last.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=mine,
        )
        self._queue = Histogram(
            "danqing_queue_seconds",
            "How long the first picture of a batch waited for the worker.",
            ("model",),
            buckets=_SECONDS,
            registry=mine,
        )
        self._compute = Histogram(
            "danqing_compute_seconds",
            "How long the worker painted a batch.",
            ("model",),
            buckets=_SECONDS,
            registry=mine,
        )
        self._batch = Histogram(
            "danqing_batch_images", "Pictures in a batch.", ("model",), buckets=_IMAGES, registry=mine
        )
        self._images = Counter("danqing_images", "Pictures painted.", ("model",), registry=mine)
        self._failures = Counter(
            "danqing_failures", "Orders not painted, by reason.", ("reason",), registry=mine
        )
        self._blocked = Counter(
            "danqing_blocked",
            "Prompts, uploads, outputs and unfinished outputs (previews) that a filter blocked.",
            ("what", "filter"),
            registry=mine,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; route: its template, "" for unknown paths."""
        kind, where = method if method in _METHODS else "other", route or "none"
        self._requests.labels(kind, where, str(status)).inc()
        self._seconds.labels(kind, where).observe(seconds)

    def batch(self, model: str, images: int, queue_seconds: float, compute_seconds: float) -> None:
        """Count a painted batch; queue_seconds: how long its first picture was queued."""
        self._images.labels(model).inc(images)
        self._batch.labels(model).observe(images)
        self._queue.labels(model).observe(queue_seconds)
        self._compute.labels(model).observe(compute_seconds)

    def failure(self, reason: str) -> None:
        """Count an order that failed.

        reason: one of a few words, such as "deadline" or "worker_died".
        """
        self._failures.labels(reason).inc()

    def blocked(self, what: str, filter: str) -> None:
        """Count what a filter blocked.

        what: "prompt", "upload", "output" or "preview".
        """
        self._blocked.labels(what, filter).inc()

    def register(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a number that is read when metrics are requested.

        A name that ends in `_total` is a counter, others are gauges.
        """
        self.register_family(name, text, (), lambda: {(): read()})

    def register_family(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """Add numbers that are read when metrics are requested.

        name: see `register`. read: returns them by the values of their labels.
        """
        self.registry.register(_Callback(name, text, labels, read))

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus.

        Its media type is CONTENT_TYPE.
        """
        return generate_latest(self.registry)


class _Callback(Collector):
    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Return the name only: registering must not read what may not have started yet."""
        return [self._family()]

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Return the current numbers."""
        family = self._family()
        for values, number in self._read().items():
            family.add_metric(list(values), number)
        return [family]

    def _family(self) -> GaugeMetricFamily | CounterMetricFamily:
        kind = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        return kind(self._name, self._text, labels=self._labels)
