"""The Kubernetes API as JSON; a refusal is one line."""

import json
from collections.abc import Sequence
from typing import Any

from steelyard.errors import MissingExtra, SteelyardError

Api = Any  # kubernetes.client.ApiClient, which has no types
Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
JSON = "application/json"


class ClusterRefused(SteelyardError):
    """The Kubernetes API did not do what was asked; its reason is in the text."""

    def __init__(self, what: str, status: int, reason: str) -> None:
        self.status = status  # of HTTP; 0 where nobody answered
        super().__init__(f"{what}: {reason}")


def connect() -> Api:
    """Connect as the account of the pod that this runs in, or else as kubectl would.

    Raises:
        ClusterRefused: neither is configured.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise MissingExtra("kubernetes", "pipeline") from None
    try:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
    except config.ConfigException as error:
        raise ClusterRefused("no cluster is configured", 0, one_line(str(error))) from None
    return client.ApiClient()


def request(
    api: Api,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]] = (),
    body: Object | None = None,
    content_type: str = JSON,
) -> Any:
    """Ask the API server and return its JSON.

    Raises:
        ClusterRefused: it refused, or does not answer.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    headers = {"Accept": JSON, "Content-Type": content_type}
    how = {"response_type": "object", "auth_settings": ["BearerToken"], "_request_timeout": 30}
    try:
        return api.call_api(path, method, query_params=query, header_params=headers, body=body, **how)[0]
    except ApiException as error:
        said = str(error.body or error.reason)
        reason = json.loads(said).get("message", said) if said.startswith("{") else said
        raise ClusterRefused(f"{method} {path}", error.status, one_line(reason)) from None
    except HTTPError as error:
        reason = f"the API server does not answer: {one_line(str(error))}"
        raise ClusterRefused(f"{method} {path}", 0, reason) from None


def one_line(text: str) -> str:
    """Return a text without its line breaks, and not too much of it."""
    return " ".join(text.split())[:400]
