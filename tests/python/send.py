"""Sends one span, one metric and one log record with the OpenTelemetry SDK, as a user's service would.

Usage: send.py grpc|http ENDPOINT TENANT
"""

import logging
import sys

from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def exporters(protocol, endpoint, headers):
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        common = dict(endpoint=endpoint, headers=headers, insecure=True)
        return OTLPSpanExporter(**common), OTLPMetricExporter(**common), OTLPLogExporter(**common)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return (
        OTLPSpanExporter(endpoint=endpoint + "/v1/traces", headers=headers),
        OTLPMetricExporter(endpoint=endpoint + "/v1/metrics", headers=headers),
        OTLPLogExporter(endpoint=endpoint + "/v1/logs", headers=headers),
    )


def main(protocol, endpoint, tenant):
    resource = Resource.create({"service.name": "python", "gen_ai.request.model": "ranker", "service.version": "7.1.0"})
    spans, points, records = exporters(protocol, endpoint, {"x-tenant-id": tenant})

    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(spans))
    with traces.get_tracer("it").start_as_current_span("python-span"):
        pass

    meters = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(points)])
    meters.get_meter("it").create_counter("python_counter").add(1)

    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(BatchLogRecordProcessor(records))
    logger = logging.getLogger("it")
    logger.addHandler(LoggingHandler(logger_provider=logs))
    logger.warning("python-log")

    for provider in (traces, meters, logs):
        if provider.force_flush(20_000) is False:
            raise SystemExit(f"{type(provider).__name__} could not flush")
        provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
