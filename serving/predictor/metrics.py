"""What /metrics tells beside KServe's own four histograms."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("predictor_requests", "Requests answered", ["protocol", "code"])
SECONDS = Histogram("predictor_request_seconds", "From the first byte of a request to its answer", ["protocol"])
IMAGES = Counter("predictor_images", "Images answered")
DRIFT_SENT = Counter("drift_sent", "Samples handed to the drift detector")
DRIFT_DROPPED = Counter("drift_dropped", "Samples that the drift detector missed: absent, hung or too slow")
DRIFT_CONNECTED = Gauge("drift_connected", "1 while the drift detector listens")
