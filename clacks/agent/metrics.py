"""What an agent counts, for Prometheus: `/metrics`, and `/healthz` for whoever watches processes. It needs the extra `metrics`.

Nothing is counted here. A scrape reads what the parts of the agent count anyway, in a thread of its own. Names follow OpenTelemetry's
semantic conventions for messaging where those have one (messaging.client.sent.messages and its like), else they begin with clacks_.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ..amqp import is_loopback
from ..common.errors import ClacksError

if TYPE_CHECKING:
    from .agent import Agent


# How often the server looks whether it is to end, in seconds: what stopping an agent may wait for it.
POLL_SECONDS: Final = 0.05
# How long a request may pause in coming, in seconds, and how many may be on their way; more are closed at once. Prometheus asks once in
# some seconds, so these are enough for a few that ask, and for somebody on this machine who asks and says nothing.
REQUEST_SECONDS: Final = 10.0
REQUESTS: Final = 16


class Collector:
    """Reads an agent's counters when it is asked (a collector in the sense of prometheus_client)."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        agent, broker = self._agent, self._agent.broker
        intake, totals = broker.intake, broker.subscriptions.totals()
        for name, words, value in (
            ("messaging_client_consumed_messages", "Events that were accepted from publishers.", intake.published),
            ("messaging_client_sent_messages", "Deliveries of events to subscribers.", totals.delivered),
            ("clacks_dropped_messages", "Deliveries dropped because a subscriber's queue was full.", totals.dropped),
            ("clacks_expired_messages", "Deliveries that expired in a subscriber's queue.", totals.expired),
            ("clacks_unaccepted_messages", "Deliveries that a subscriber did not accept.", totals.unaccepted),
            ("clacks_dead_messages", "Deliveries that went to the dead letters.", totals.buried),
            ("clacks_filter_errors", "Evaluations of filters that failed.", totals.filter_errors),
            ("clacks_sandbox_evaluations", "Evaluations in the sandbox.", broker.subscriptions.sandbox.evaluated),
            ("clacks_sandbox_exceeded", "Evaluations in the sandbox that exceeded their budget.", broker.subscriptions.sandbox.exceeded),
        ):
            yield CounterMetricFamily(name, words, value)
        refused = CounterMetricFamily("clacks_refused_messages", "Events that were refused, by the code of the error.", labels=["code"])
        for code, count in sorted(intake.refusals.copy().items()):
            refused.add_metric([code], count)
        yield refused
        turned_away = CounterMetricFamily("clacks_not_let_in", "Connections that were not let in, by the kind of reason.", labels=["kind"])
        for kind, count in sorted(agent.gate.refusals.copy().items()):
            turned_away.add_metric([kind], count)
        yield turned_away
        gauges: tuple[tuple[str, str, float], ...] = (
            (
                "clacks_queue_messages",
                "Events that wait in the subscribers' queues.",
                sum(one.waiting for one in broker.subscriptions.snapshot()),
            ),
            ("clacks_subscriptions", "Subscriptions.", len(broker.subscriptions.all)),
            ("clacks_connections", "Connections.", agent.gate.connections),
            ("clacks_half_open_connections", "Connections that are not authenticated yet.", agent.gate.half_open),
            ("clacks_schemas", "Events that can be published.", len(agent.schemas.current)),
            ("clacks_schema_problems", "Schema files that are not in order.", len(agent.schemas.problems)),
            ("clacks_loop_lag_seconds", "By how much the event loop was late when it was last looked at.", agent.node.latency),
        )
        for name, words, level in gauges:
            yield GaugeMetricFamily(name, words, level)
        yield SummaryMetricFamily(
            "clacks_publish_duration_seconds", "Time to parse, validate and match, of a sample of the events.",
            count_value=intake.sampled, sum_value=intake.sampled_seconds,
        )  # fmt: skip


class Endpoint:
    """The HTTP server, in a daemon thread. Raises ClacksError config-invalid if it cannot be had."""

    def __init__(self, place: str, agent: Agent) -> None:
        """`place` is HOST:PORT on this machine: what is counted is nobody else's business, and there is no authentication."""
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        if not is_loopback(host):
            raise _invalid(place, "metrics are served on loopback only", "Give localhost:PORT, and let a proxy ask for a password.")
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ImportError as error:
            raise _invalid(place, "prometheus-client is not installed", "Install the extra: pip install 'clacks[metrics]'.") from error
        registry = CollectorRegistry()
        registry.register(Collector(agent))
        try:
            self._server = make_server(host, int(port), _with_health(make_wsgi_app(registry)), _Server, _Quiet)
        except OSError as error:
            raise _invalid(place, f"it cannot be listened on: {error.strerror or error}", "Give another port.") from error
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="clacks-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """Each request in a thread of its own: who does not go on with one holds up neither the next one nor the agent when it stops."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._room = threading.BoundedSemaphore(REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # who went away, or was too slow, is no line of the log


class _Quiet(WSGIRequestHandler):
    """Requests are not logged: a scrape every few seconds says nothing."""

    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the base class's name


def _with_health(metrics: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, start_response)
        found = path == "/healthz"
        start_response("200 OK" if found else "404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if found else b"There is /metrics and /healthz.\n"]

    return app


def _invalid(place: str, reason: str, hint: str) -> ClacksError:
    return ClacksError("config-invalid", source=f"metrics_listen {place}", reason=reason, hint=hint)
