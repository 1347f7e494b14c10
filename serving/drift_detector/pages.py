"""What the detector tells over HTTP: /metrics for Prometheus, /report for people and programs, /healthz."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.drift_detector.watch import Watch
from steelyard.drift.detector import DriftReport

STATES = {"NO_PROFILE": -1, "OK": 0, "WARN": 1, "DRIFT": 2}


def serve(watch: Watch, host: str, port: int) -> None:
    """Answer at host and port, from a thread that ends with the process."""
    REGISTRY.register(_Metrics(watch))

    class Pages(_Pages):
        def contents(self) -> dict[str, tuple[str, bytes]]:
            return {
                "/healthz": ("application/json", b'{"status": "ok"}'),
                "/report": ("application/json", json.dumps(watch.report()[1]).encode()),
                "/metrics": (CONTENT_TYPE_LATEST, generate_latest(REGISTRY)),
            }

    server = _Server((host, port), Pages)
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()


class _Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Bind without the look-up of the host's name in the DNS that HTTPServer adds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]


class _Pages(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        media_type, content = self.contents().get(self.path, ("text/plain", None))
        self.send_response(404 if content is None else 200)
        body = content or b"see /report, /metrics or /healthz\n"
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def contents(self) -> dict[str, tuple[str, bytes]]:
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: Prometheus asks every few seconds."""


class _Metrics(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of now."""
        report, page = self._watch.report()
        yield _gauge("drift_state", "-1 no profile, 0 OK, 1 WARN, 2 DRIFT", STATES[page["state"]])
        yield CounterMetricFamily("drift_samples", "Samples judged, over restarts", value=page["samples"])
        alarms = CounterMetricFamily("drift_alarms", "Episodes begun", labels=["kind"])
        for level in ("WARN", "DRIFT"):
            alarms.add_metric([level], self._watch.alarm_counts[level])
        yield alarms
        if report is not None:
            yield from _readings(report)
            yield from _latest_window(report)
            info = GaugeMetricFamily("drift_profile_info", "The profile judged by", labels=["digest"])
            info.add_metric([page["profile"][:12]], 1)
            yield info


def _readings(report: DriftReport) -> Iterator[Metric]:
    labels = ["detector", "window"]
    statistic = GaugeMetricFamily("drift_statistic", "What a detector shows", labels=labels)
    threshold = GaugeMetricFamily("drift_threshold", "What it must not exceed", labels=labels)
    p_value = GaugeMetricFamily("drift_pvalue", "Of the latest window", labels=labels)
    for reading in report.readings:
        names = [reading.detector, str(reading.window or "")]
        statistic.add_metric(names, reading.statistic)
        threshold.add_metric(names, reading.threshold)
        if reading.p_value is not None:
            p_value.add_metric(names, reading.p_value)
    yield from (statistic, threshold, p_value)


def _latest_window(report: DriftReport) -> Iterator[Metric]:
    if report.divergences is not None:
        yield _gauge("drift_kl_divergence", "Of the predicted classes, nats", report.divergences.kl)
        yield _gauge("drift_cross_entropy", "Of the predicted classes, nats", report.divergences.cross_entropy)
    if report.estimated_accuracy is not None:
        yield _gauge("drift_estimated_accuracy", "Without labels (ATC), so a hint", report.estimated_accuracy)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
