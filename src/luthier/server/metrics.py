"""Numbers for Prometheus; the one door to its client library. Labels are routes and statuses, never ids, keys or words of users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

registry = CollectorRegistry()

_requests = Counter("luthier_requests", "Requests answered.", ("method", "route", "status"), registry=registry)
_seconds = Histogram("luthier_request_seconds", "Until the answer was complete.", ("method", "route"), registry=registry, buckets=SECONDS)
_in_flight = Gauge("luthier_requests_in_flight", "Requests that are being answered.", registry=registry)
_tokens = Counter("luthier_tokens", "Tokens read and written for clients.", ("kind",), registry=registry)
_first_token = Histogram(
    "luthier_first_token_seconds", "From a request for a stream to its first token.", registry=registry, buckets=SECONDS
)
_uploaded = Counter("luthier_uploaded_bytes", "Bytes of files received.", registry=registry)


class Source(Protocol):
    """Somebody who can be asked for numbers of now."""

    def __call__(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        """Name, explanation, labels, value."""
        ...


class _Live(Collector):
    """Numbers that are asked for when Prometheus asks: queue, workers, storage."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, explanation, labels, value in self.source():
            family = families.setdefault(name, GaugeMetricFamily(name, explanation, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return families.values()


@contextmanager
def in_flight() -> Iterator[None]:
    """Counts a request while it is answered."""
    with _in_flight.track_inprogress():
        yield


def request(method: str, route: str, status: int, seconds: float) -> None:
    """A request is over. `route` is the pattern of its path, so that ids make no new series."""
    known = method if method in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS") else "other"
    _requests.labels(known, route, str(status)).inc()
    _seconds.labels(known, route).observe(seconds)


def tokens(read: int, written: int) -> None:
    """A model read and wrote so many tokens."""
    _tokens.labels("read").inc(read)
    _tokens.labels("written").inc(written)


def first_token(seconds: float) -> None:
    """A stream began."""
    _first_token.observe(seconds)


def uploaded(num_bytes: int) -> None:
    """Bytes of a file came in."""
    _uploaded.inc(num_bytes)


def page(source: Source) -> bytes:
    """All numbers in Prometheus' text format, with those `source` knows now."""
    live = CollectorRegistry()
    live.register(_Live(source))
    return generate_latest(registry) + generate_latest(live)
