"""Are the image, the compose file, the manifests, the dashboard and the alerts right?

No container engine is needed: what can be known without one is read from the files and compared
with the program, with a real scrape and with each other.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from flows.telemetry import Telemetry
from schemas.metrics import METRICS

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "nextbest.json"

# The keys of the compose specification that this project uses; a misspelt key is not among them.
SERVICE_KEYS = {
    "image",
    "build",
    "command",
    "environment",
    "depends_on",
    "healthcheck",
    "ports",
    "volumes",
    "restart",
    "read_only",
    "tmpfs",
    "cap_drop",
    "security_opt",
    "stop_grace_period",
}
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period", "disable"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def yaml_documents(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


@cache
def compose() -> dict[str, Any]:
    (document,) = yaml_documents(DOCKER / "compose.yaml")
    assert isinstance(document, dict)
    return document


@cache
def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml_documents(DOCKER / "k8s" / "nextbest.yaml")}


SERVICES = tuple(compose()["services"])


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


# compose.yaml


def test_compose_has_no_top_level_key_that_compose_does_not_know() -> None:
    known = {"name", "services", "volumes"}
    assert {key for key in compose() if not key.startswith("x-")} == known


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_uses_known_keys_and_an_image_pinned_by_its_tag(name: str) -> None:
    assert set(service(name)) <= SERVICE_KEYS
    repository, _, tag = service(name)["image"].rpartition(":")
    assert repository
    assert re.search(r"\d", tag), "a tag that names a version"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_only_for_what_can_come_true(name: str) -> None:
    for other, how in service(name).get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        assert other in SERVICES
        needed = service(other)
        if how["condition"] == "service_healthy":
            assert "test" in needed["healthcheck"]
        if how["condition"] == "service_completed_successfully":
            assert needed["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_a_healthcheck_has_known_keys_and_a_command(name: str) -> None:
    check = service(name).get("healthcheck")
    if check is None:
        return
    assert set(check) <= HEALTHCHECK_KEYS
    assert check.get("disable") is True or check["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_is_declared_or_a_folder_of_this_repository(name: str) -> None:
    for volume in service(name).get("volumes", []):
        source, target, *_ = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (DOCKER / source).is_dir()
        else:
            assert source in compose()["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_published_to_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service(name).get("ports", []))


def test_no_declared_volume_is_unused() -> None:
    used = {v.split(":")[0] for name in SERVICES for v in service(name).get("volumes", [])}
    assert set(compose()["volumes"]) <= used


def addresses(words: list[str]) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == "-a"]


def test_the_flow_processes_form_one_cluster() -> None:
    flows = [name for name in SERVICES if service(name).get("command", [""])[0] == "run"]
    assert len(flows) == 2
    for index, name in enumerate(flows):
        command = service(name)["command"]
        assert command[command.index("-i") + 1] == str(index)
        assert addresses(command) == [f"{flow}:9999" for flow in flows]
        # Each recovery partition must exist once: one store for all.
        assert service(name)["volumes"] == service(flows[0])["volumes"]


def test_our_services_run_with_the_least_rights() -> None:
    ours = [name for name in SERVICES if service(name)["image"].startswith("nextbest:")]
    assert set(ours) == {"topics", "flow-0", "flow-1", "shop"}
    for name in ours:
        assert service(name)["read_only"] is True
        assert service(name)["cap_drop"] == ["ALL"]
        assert service(name)["security_opt"] == ["no-new-privileges:true"]


def test_the_flow_is_given_longer_to_stop_than_it_promises_to_take() -> None:
    assert int(service("flow-0")["stop_grace_period"].removesuffix("s")) > 30
    assert pod()["terminationGracePeriodSeconds"] > 30


def test_prometheus_scrapes_services_that_exist_on_their_telemetry_port() -> None:
    (config,) = yaml_documents(DOCKER / "prometheus" / "prometheus.yml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "nextbest"]
    targets = [target for each in job["static_configs"] for target in each["targets"]]
    port = service("flow-0")["environment"]["NEXTBEST_TELEMETRY_PORT"]
    assert targets == [f"flow-0:{port}", f"flow-1:{port}"]
    assert all((DOCKER / "prometheus" / file).is_file() for file in config["rule_files"])


def test_grafana_finds_its_datasource_and_its_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (sources,) = yaml_documents(provisioning / "datasources" / "prometheus.yaml")
    (source,) = sources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    used = {node["uid"] for node in walk(dashboard()) if node.get("type") == "prometheus"}
    assert used == {source["uid"]}
    (providers,) = yaml_documents(provisioning / "dashboards" / "nextbest.yaml")
    folder = providers["providers"][0]["options"]["path"]
    mounted = {v.split(":")[1]: v.split(":")[0] for v in service("grafana")["volumes"]}
    assert (DOCKER / mounted[folder] / "nextbest.json").resolve() == DASHBOARD.resolve()


# Dockerfile


@cache
def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = text.replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest) for word, rest in lines]


def arguments_of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def test_the_image_is_built_in_stages_from_a_versioned_base() -> None:
    assert arguments_of("ARG") == ["BASE=python:3.12-slim-bookworm"]
    assert arguments_of("FROM") == ["${BASE} AS build", "${BASE}"]
    assert not any("latest" in rest for _, rest in instructions())


def test_the_image_takes_nothing_from_a_url() -> None:
    assert arguments_of("ADD") == []
    assert not any(re.search(r"\b(curl|wget|git clone)\b", rest) for rest in arguments_of("RUN"))


def test_every_package_is_installed_by_hash_or_without_an_index() -> None:
    installs = [
        command
        for run in arguments_of("RUN")
        for command in run.split("&&")
        if re.search(r"\bpip\b.* install ", command)
    ]
    assert len(installs) == 3
    for command in installs:
        by_hash = "--require-hashes" in command and "--only-binary :all:" in command
        assert by_hash or ("--no-index" in command and "--no-deps" in command)


def test_the_image_ends_as_a_numbered_user_who_is_not_root() -> None:
    assert arguments_of("USER") == ["10001:10001"]
    last = max(at for at, (word, _) in enumerate(instructions()) if word == "USER")
    assert not [word for word, _ in instructions()[last:] if word in {"RUN", "COPY"}]


def test_the_image_starts_and_stops_as_documented() -> None:
    assert arguments_of("ENTRYPOINT") == ['["nextbest"]']
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]
    (check,) = arguments_of("HEALTHCHECK")
    assert "/livez" in check
    assert "readyz" not in check


def test_everything_the_image_copies_is_in_the_repository_and_in_the_build_context() -> None:
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    copied = [
        path.removeprefix("./")
        for rest in arguments_of("COPY")
        if not rest.startswith("--from")
        for path in rest.split()[:-1]
    ]
    assert sorted(copied) == sorted(sent)
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_the_build_tool_that_the_dockerfile_cuts_out_of_the_lock_file_is_there() -> None:
    lock = (ROOT / "requirements-dev.lock").read_text()
    assert re.search(r"^setuptools==\S+ \\\n(\s+--hash=sha256:[0-9a-f]{64}( \\)?\n)+", lock, re.M)


# Kubernetes


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    assert isinstance(found, dict)
    return found


def test_the_pods_meet_the_restricted_security_standard() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == 10001
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_manifests_select_the_same_pods() -> None:
    labels = manifests()["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_addresses_agree_with_the_number_of_pods_and_their_service() -> None:
    stateful = manifests()["StatefulSet"]
    name, network = stateful["metadata"]["name"], stateful["spec"]["serviceName"]
    expected = [f"{name}-{n}.{network}:9999" for n in range(stateful["spec"]["replicas"])]
    assert addresses(container()["args"]) == expected
    assert manifests()["Service"]["metadata"]["name"] == network
    # They look each other up before any of them is ready.
    assert manifests()["Service"]["spec"]["publishNotReadyAddresses"] is True


def test_only_the_flow_may_reach_the_cluster_port() -> None:
    policy = manifests()["NetworkPolicy"]["spec"]
    rules = [rule for rule in policy["ingress"] if any(p["port"] == 9999 for p in rule["ports"])]
    assert [rule["from"] for rule in rules] == [[{"podSelector": policy["podSelector"]}]]


def test_the_probes_ask_pages_that_exist_on_a_port_that_is_declared() -> None:
    pages = {name: container()[name]["httpGet"] for name in container() if name.endswith("Probe")}
    assert {name: page["path"] for name, page in pages.items()} == {
        "startupProbe": "/startupz",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert {page["port"] for page in pages.values()} <= set(ports)
    assert str(ports["telemetry"]) == manifests()["ConfigMap"]["data"]["NEXTBEST_TELEMETRY_PORT"]


def test_a_pod_without_the_secret_that_seals_the_state_does_not_start() -> None:
    # A required key of a secret: without it the flow would make one beside the state.
    (key,) = [each for each in container()["env"] if each["name"] == "NEXTBEST_PSEUDONYM_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "nextbest", "key": key["name"]}}
    assert "NEXTBEST_PSEUDONYM_KEY" not in manifests()["ConfigMap"]["data"]


def test_a_rewrite_of_the_recovery_store_has_the_stores_own_volume_for_its_copy() -> None:
    for settings in (manifests()["ConfigMap"]["data"], service("flow-0")["environment"]):
        assert settings["SQLITE_TMPDIR"] == settings["NEXTBEST_RECOVERY_DIR"]


def test_every_mounted_volume_is_declared() -> None:
    assert {m["name"] for m in container()["volumeMounts"]} == {v["name"] for v in pod()["volumes"]}


# Queries


class Query(NamedTuple):
    where: str
    text: str


@cache
def dashboard() -> dict[str, Any]:
    found = json.loads(DASHBOARD.read_text())
    assert isinstance(found, dict)
    return found


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            yield from walk(child)


@cache
def alerts() -> list[dict[str, Any]]:
    (document,) = yaml_documents(DOCKER / "prometheus" / "alerts.yml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries() -> list[Query]:
    shown = [
        Query(node.get("legendFormat", ""), node["expr"])
        for node in walk(dashboard())
        if "expr" in node
    ]
    return shown + [Query(rule["alert"], rule["expr"]) for rule in alerts()]


@cache
def scraped() -> dict[str, set[str]]:
    """Sample name to its labels, in a real scrape where every metric was used once."""
    telemetry = Telemetry()
    for metric in METRICS.values():
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind == "counter":
            telemetry.count(metric.name, 1, **labels)  # type: ignore[arg-type]
        elif metric.kind == "gauge":
            telemetry.set(metric.name, 1, **labels)  # type: ignore[arg-type]
        else:
            telemetry.observe(metric.name, 1, **labels)  # type: ignore[arg-type]
    found: dict[str, set[str]] = {"up": set()}  # `up` is Prometheus's own, for each scrape
    for family in text_string_to_metric_families(telemetry.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


FUNCTIONS_AND_WORDS = {
    *("sum", "max", "min", "rate", "increase", "changes", "histogram_quantile", "scalar", "time"),
    *("by", "ignoring", "on", "group_left", "and", "or", "unless", "offset"),
}


def metrics_and_labels(query: str) -> tuple[set[str], set[str]]:
    """Metric names, and labels matched or grouped by, of a PromQL expression."""
    text = re.sub(r'"[^"]*"', '""', query)
    labels = {
        label
        for group in re.findall(r"\{([^}]*)\}", text)
        for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", group)
    }
    for group in re.findall(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)", text):
        labels |= set(re.findall(r"\w+", group))
    text = re.sub(r"\b(?:by|on|ignoring|group_left)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+", " ", text)
    return set(re.findall(r"\b[a-zA-Z_]\w*", text)) - FUNCTIONS_AND_WORDS, labels


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.text[:70])
def test_a_query_asks_for_metrics_and_labels_that_a_real_scrape_has(query: Query) -> None:
    metrics, labels = metrics_and_labels(query.text)
    assert metrics, "a query without a metric"
    assert metrics <= set(scraped())
    known = {"instance", "job", "le"}.union(*(scraped()[metric] for metric in metrics))
    assert labels <= known
    for group in re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", query.where):
        assert group in known


def test_reading_a_query_finds_its_metrics_and_labels() -> None:
    found = metrics_and_labels(
        'sum by (arm) (rate(a_total{placement=~"$placement", x!="y"}[$__rate_interval])) '
        "/ ignoring (kind) group_left () (b or 0 * c offset 1m) > 5"
    )
    assert found == ({"a_total", "b", "c"}, {"arm", "placement", "x", "kind"})


def test_every_metric_that_is_counted_is_also_looked_at() -> None:
    asked = {name for query in queries() for name in metrics_and_labels(query.text)[0]}
    asked = {re.sub(r"_bucket$", "", name) for name in asked}
    assert {metric.full_name for metric in METRICS.values()} <= asked


def test_no_panel_overlaps_another_or_leaves_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_runbook_that_exists(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == rule["alert"].lower()


def test_every_runbook_belongs_to_an_alert() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Alerts\n")[2]
    assert re.findall(r"^### (.+)$", section, flags=re.MULTILINE) == [
        rule["alert"] for rule in alerts()
    ]
