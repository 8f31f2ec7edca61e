"""Reads OpenMetrics from a URL as Prometheus does, and prints each sample: NAME LABELS VALUE, as JSON."""

import json
import sys
import urllib.request

from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families

request = urllib.request.Request(sys.argv[1], headers={"Accept": "application/openmetrics-text; version=1.0.0"})
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
    media, *parameters = [part.strip() for part in answer.headers["Content-Type"].split(";")]
    assert media == CONTENT_TYPE_LATEST.split(";")[0], media
    assert sorted(parameters) == ["charset=utf-8", "version=1.0.0"], parameters
    text = answer.read().decode()

for family in text_string_to_metric_families(text):
    assert family.documentation, family
    for sample in family.samples:
        value = float(sample.value)
        print(json.dumps([family.type, sample.name, sample.labels, int(value) if value.is_integer() else value]))
