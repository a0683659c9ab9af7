"""Takes OTLP over HTTP (protobuf or JSON) and keeps what came, one JSON object a line.

    otlp_sink.py PORT FILE

What it decodes with are the messages that the OpenTelemetry project publishes, not ours. A request to a path it does
not know, or with a body it cannot decode, gets 400. A line holds path, headers and the decoded request, in the JSON
form of protobuf (identifiers of traces and spans in base64).
"""

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}
writing = threading.Lock()


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        kind = KINDS.get(self.path)
        if kind is None:
            return self.answer(400)
        try:
            if "json" in self.headers.get("content-type", ""):
                data = json.loads(body)
            else:
                message = kind()
                message.ParseFromString(body)
                data = MessageToDict(message)
        except (DecodeError, ValueError):
            return self.answer(400)
        line = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "data": data})
        with writing, open(sys.argv[2], "a") as file:
            file.write(line + "\n")
        self.answer(200)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


open(sys.argv[2], "a").close()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
