#!/usr/bin/env python3
"""The Grafana board, and what boards and rules name.

scripts/boards.py            write deploy/grafana/tagstream.json, and copies of it and of the rules
                             into the Helm chart
scripts/boards.py --check    fail where one of them is stale, where an expression names a metric or
                             a label that the program does not have (docs/metrics.md is made of its
                             table), or where a rule has no paragraph in docs/runbook.md, no test in
                             deploy/prometheus/rules_test.yml, or two have one name
scripts/boards.py --rules    print the board's expressions as a file of rules, for promtool
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy/prometheus/rules.yml"
TESTS = ROOT / "deploy/prometheus/rules_test.yml"
BOARD = ROOT / "deploy/grafana/tagstream.json"
CHART = ROOT / "deploy/helm/tagstream/files"
# Of others: Prometheus itself, kube-state-metrics, the node exporter.
FOREIGN = {"up", "kube_job_failed", "node_systemd_unit_state"}
FOREIGN_LABELS = {"job", "instance", "le", "job_name", "condition", "name", "state", "score"}
# Rules whose test has series that must not fire beside those that must, all at one time.
BESIDE = {"TagstreamLagWithoutProgress", "TagstreamDeadLetters", "TagstreamRetrainingFails"}
J = 'job=~"$job"'


def panel(title: str, unit: str, *series: tuple[str, str], kind="timeseries", **more) -> dict:
    return {"title": title, "unit": unit, "series": series, "kind": kind, **more}


# What has not happened yet may have no series: a panel that says nothing then says 0.
ROWS = [
    ("Is it well", [
        panel("Processes that answer", "short", (f"sum(up{{{J}}})", "up"), kind="stat"),
        panel("Messages not yet in files", "short",
              (f"sum(tagstream_partition_lag_messages{{{J}}})", "lag"), kind="stat"),
        panel("Since the last committed file", "s",
              (f"time() - max by (table) (tagstream_last_commit_timestamp_seconds{{{J}}})",
               "{{table}}"), kind="stat"),
        panel("Model that serves", "short",
              (f"count by (model_version) (tagstream_model_info{{{J}}} == 1)",
               "{{model_version}}"), kind="stat"),
    ]),
    ("Flow", [
        panel("Messages read", "ops",
              (f"sum by (topic) (rate(tagstream_messages_total{{{J}}}[5m]))", "{{topic}}")),
        panel("Rows committed", "ops",
              (f"sum by (table) (rate(tagstream_rows_total{{{J}}}[5m]))", "{{table}}")),
        panel("Lag", "short",
              (f"sum by (topic) (tagstream_partition_lag_messages{{{J}}})", "{{topic}}")),
        panel("Dead letters by kind", "ops",
              (f"sum by (kind) (rate(tagstream_dead_letters_total{{{J}}}[5m]))", "{{kind}}")),
        panel("Reading paused, partitions", "short",
              (f"sum by (topic) (tagstream_source_paused{{{J}}})"
               f" or 0 * sum by (topic) (tagstream_partition_lag_messages{{{J}}})", "{{topic}}")),
        panel("Rebalances", "short",
              (f"sum by (kind) (increase(tagstream_rebalances_total{{{J}}}[5m]))", "{{kind}}")),
    ]),
    ("Others", [
        panel("Hosts, buckets and folders down", "short",
              (f"max(tagstream_outages{{{J}}}) or 0 * max(up{{{J}}})", "down")),
        panel("Messages that wait", "short",
              (f"sum by (fault) (tagstream_messages_waiting{{{J}}}) or 0 * max(up{{{J}}})",
               "{{fault}}")),
        panel("Requests to stores that fail", "percentunit",
              (f'(sum by (store) (rate(tagstream_store_requests_total{{{J}, result="failed"}}[5m]))'
               f" or 0 * sum by (store) (rate(tagstream_store_requests_total{{{J}}}[5m])))"
               f" / sum by (store) (rate(tagstream_store_requests_total{{{J}}}[5m]))",
               "{{store}}")),
        panel("Puts of files repeated", "short",
              (f"sum by (table) (increase(tagstream_store_retries_total{{{J}}}[5m]))",
               "{{table}}")),
    ]),
    ("Model", [
        panel("Images through the model", "ops",
              (f"sum by (result) (rate(tagstream_inference_images_total{{{J}}}[5m]))",
               "{{result}}")),
        panel("A batch through the model", "s",
              *((f"histogram_quantile({q}, sum by (le) "
                 f"(rate(tagstream_inference_seconds_bucket{{{J}}}[5m])))", f"{q}")
                for q in (0.5, 0.99))),
        panel("Images in a batch", "short",
              (f"sum(rate(tagstream_batch_images_sum{{{J}}}[5m]))"
               f" / sum(rate(tagstream_batch_images_count{{{J}}}[5m]))", "mean")),
        panel("Models exchanged and refused", "short",
              (f"sum by (result) (increase(tagstream_model_swaps_total{{{J}}}[1h]))", "{{result}}"),
              (f"sum(increase(tagstream_model_versions_refused_total{{{J}}}[1h]))",
               "versions refused")),
        panel("Since the retraining decided", "s",
              (f"time() - max by (action) "
               f"(tagstream_registry_decision_timestamp_seconds{{{J}}})", "{{action}}")),
        panel("Row budget used", "percentunit",
              (f"max by (table) (tagstream_row_budget_used_bytes{{{J}}}"
               f" / tagstream_row_budget_bytes{{{J}}})", "{{table}}")),
    ]),
    ("What the model says", [
        panel("Tags an image, by category", "short",
              (f"sum by (category) (increase(tagstream_tags_total{{{J}}}[1h]))"
               f" / on () group_left () "
               f'sum(increase(tagstream_inference_images_total{{{J}, result="ok"}}[1h]))',
               "{{category}}")),
        panel("Scores of an hour, all categories", "percentunit",
              (f"sum by (score) (increase(tagstream_scores_total{{{J}}}[1h])) / on () group_left ()"
               f" sum(increase(tagstream_scores_total{{{J}}}[1h]))", "from {{score}}"),
              stacked=True),
        panel("Scores beside those of seven days, PSI", "short",
              (f"job_category:tagstream_scores:psi{{{J}}}", "{{category}}")),
        panel("Pictures beside those of the training, PSI", "short",
              (f"job:tagstream_embeddings:psi{{{J}}}", "{{job}}")),
    ]),
]


def drawn(panel: dict, number: int, x: int, y: int, width: int, height: int) -> dict:
    custom = {"fillOpacity": 30, "stacking": {"mode": "normal"}} if panel.get("stacked") else {}
    return {
        "id": number,
        "type": panel["kind"],
        "title": panel["title"],
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": panel["unit"], "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if panel["kind"] == "timeseries"
        else {"colorMode": "none", "textMode": "value_and_name"},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(panel["series"])
        ],
    }


def board() -> dict:
    panels, number, y = [], 0, 0
    for title, row in ROWS:
        number += 1
        panels.append({"id": number, "type": "row", "title": title, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        x, y = 0, y + 1
        for wanted in row:
            stat = wanted["kind"] == "stat"
            width, height = (6, 4) if stat else (wanted.get("width", 12), 8)
            if x + width > 24:
                x, y = 0, y + height
            number += 1
            panels.append(drawn(wanted, number, x, y, width, height))
            x += width
        y += 4 if row[0]["kind"] == "stat" else 8
    query = {"name": "job", "label": "Installation", "type": "query", "refresh": 2,
             "multi": True, "includeAll": True,
             "datasource": {"type": "prometheus", "uid": "${source}"},
             "query": "label_values(tagstream_build_info, job)"}
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "tagstream", "title": "tagstream", "tags": ["tagstream"], "schemaVersion": 39,
        "editable": True, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, query]}, "panels": panels,
    }


def made() -> dict[Path, str]:
    text = json.dumps(board(), indent=1) + "\n"
    return {BOARD: text, CHART / "board.json": text, CHART / "rules.yml": RULES.read_text()}


def registered() -> dict[str, set[str]]:
    """Names of series and their labels, as the program's own table tells them."""
    found: dict[str, set[str]] = {}
    row = re.compile(r"^\| `(tagstream_\w+)` \| (\w+) \| (.*?) \|")
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        match = row.match(line)
        if not match:
            continue
        name, kind, labels = match.groups()
        names = [name + end for end in ("_bucket", "_sum", "_count")]
        for series in names if kind == "histogram" else [name]:
            found[series] = set(re.findall(r"`(\w+)`", labels))
    return found


def rules() -> list[tuple[str, str, str]]:
    """Kind, name and expression of each rule; the file's form is ours."""
    found = []
    for part in re.split(r"(?m)^      - (?=alert:|record:)", RULES.read_text())[1:]:
        kind, name = re.match(r"(alert|record): (\S+)", part).groups()
        expression = re.search(r"(?m)^        expr: (?:\|\n((?: {10}.*\n?)+)|(.*))", part)
        found.append((kind, name, expression[1] or expression[2]))
    return found


def wrong_names(where: str, expression: str, known: dict[str, set[str]], recorded: set[str]):
    """What an expression names that is not there."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    labels_of_all: set[str] = set()
    for name, chosen in re.findall(r"([a-z_:][\w:]*)\s*(\{[^}]*\})?", plain):
        if ":" in name:
            if name not in recorded:
                yield f"{where}: no rule records {name}"
            labels_of_all |= {"category", "score", "tenth"}
        elif name.startswith("tagstream_") or name in FOREIGN:
            if name not in known and name not in FOREIGN:
                yield f"{where}: the program has no metric {name}"
                continue
            own = known.get(name, set())
            labels_of_all |= own
            for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", chosen):
                if label not in own | FOREIGN_LABELS - {"score"}:
                    yield f"{where}: {name} has no label {label}"
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", plain):
        for label in re.findall(r"\w+", group):
            if label not in labels_of_all | FOREIGN_LABELS:
                yield f"{where}: nothing in it has the label {label}"


def check() -> list[str]:
    wrong = [f"{path.relative_to(ROOT)} is stale: run scripts/boards.py"
             for path, text in made().items() if not path.exists() or path.read_text() != text]
    known, listed = registered(), rules()
    recorded = {name for kind, name, _ in listed if kind == "record"}
    for kind, name, expression in listed:
        wrong += wrong_names(f"rule {name}", expression, known, recorded)
    for _, row in ROWS:
        for shown in row:
            for expression, _ in shown["series"]:
                wrong += wrong_names(f"panel {shown['title']}", expression, known, recorded)
    names = [name for _, name, _ in listed]
    wrong += [f"two rules are called {name}" for name in set(names) if names.count(name) > 1]
    runbook, tests = (ROOT / "docs/runbook.md").read_text(), TESTS.read_text()
    alerts = [name for kind, name, _ in listed if kind == "alert"]
    for name in alerts:
        if f"\n### {name}\n" not in runbook:
            wrong.append(f"{name} has no paragraph in docs/runbook.md")
        if f"runbook: docs/runbook.md#{name.lower()}\n" not in RULES.read_text():
            wrong.append(f"{name} does not name its paragraph of docs/runbook.md")
        fires = re.search(rf"alertname: {name}\n +exp_alerts:", tests)
        rests = re.search(rf"alertname: {name}}}", tests)
        if not fires:
            wrong.append(f"{name} has no test in which it fires")
        if not rests and tests.count(f"alertname: {name}") < 2 and name not in BESIDE:
            wrong.append(f"{name} has no test in which it does not fire")
    for name in re.findall(r"(?m)^### (Tagstream\w+)$", runbook):
        if name not in alerts:
            wrong.append(f"docs/runbook.md: no rule is called {name}")
    return wrong


def as_rules() -> str:
    lines = ["groups:", "  - name: board", "    rules:"]
    shown = (series for _, row in ROWS for panel in row for series in panel["series"])
    for number, (expression, _) in enumerate(shown):
        plain = expression.replace("$job", ".*")
        lines += [f"      - record: board:panel:{number}", f"        expr: {json.dumps(plain)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        wrong = check()
        if wrong:
            sys.exit("\n".join(wrong))
    elif arguments == ["--rules"]:
        print(as_rules(), end="")
    elif not arguments:
        for path, text in made().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
