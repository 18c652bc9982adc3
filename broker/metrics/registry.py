"""What /metrics shows, put together.

prometheus_client for the exposition (text, OpenMetrics, escaping): it is Prometheus' own; the OpenTelemetry SDK brings
an exporter, a reader and a process of its own model for what is one page of numbers here.
"""

import platform

from prometheus_client import CollectorRegistry, Info

from broker import __version__
from broker.metrics.page import Page
from broker.native._build import BUILD


def make_registry(page: Page) -> CollectorRegistry:
    registry = CollectorRegistry()
    build = Info(
        "wsbroker_build", "Version of the broker, of Python, and the build of the native core.", registry=registry
    )
    build.info({"version": __version__, "python": platform.python_version(), "core": BUILD})
    return registry
