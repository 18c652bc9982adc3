"""Numbers of deploy/kubernetes that follow from each other, from broker.toml and from the defaults of the schema.

Each is computed here from the values in force in the pod, as the real show-config says them. Whoever changes one in the
manifests and forgets the other reads here which.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from broker.config.schema import Admin, Api, Config, Server
from broker.config.values import parse_listen
from broker.metrics import catalogue
from broker.supervisor.supervisor import ENGINE_END_SECONDS
from tests.deploy.kustomize import FOLDER, ROOT, Manifest, composed, rendered
from tests.deploy.manifests import (
    DOCKERFILE,
    IMAGE,
    STATE,
    Files,
    container,
    only,
    pod,
    ports,
    quantity,
    variables,
    workers,
)

GUIDE = (ROOT / "docs/kubernetes.md").read_text()
FOLDERS = ("base", "overlays/shared-engine")
COMPONENTS = tuple(sorted(f"components/{path.name}" for path in (FOLDER / "components").iterdir()))
# RSS of a worker, of the engine and of the supervisor after the start: 60 to 73 MB (measured, Python 3.11).
PROCESS_BYTES = 80 * 2**20
# Of a connection that reads: its socket in the kernel, 3 to 4 KB, what is on its way, and 0.4 KB of ours
# (docs/performance.md).
CONNECTION_BYTES = 8 * 2**10
# broker/config/schema.py has both.
MESSAGE_ID_BYTES = 300
CACHED_TOKEN_BYTES = 1024
# What the sums below leave free, for readers that stall in the kernel and for what Python does not give back.
HEADROOM = 0.1
# broker/worker.py gives the end of the last connections one second more than their deadlines.
SPARE_SECONDS = 1
MARGIN_SECONDS = 5


class Given(NamedTuple):
    """A folder with all components, and what is in force in its pod."""

    manifests: Sequence[Manifest]
    settings: Config


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Given]:
    return {
        folder: Given(
            composed(tmp_path_factory.mktemp("composed"), folder, *COMPONENTS),
            Files(tmp_path_factory.mktemp("mounted"), rendered(folder)).settings(),
        )
        for folder in FOLDERS
    }


@pytest.fixture(params=FOLDERS)
def given(both: Mapping[str, Given], request: pytest.FixtureRequest) -> Given:
    return both[request.param]


@pytest.fixture
def alone(both: Mapping[str, Given]) -> Given:
    return both["base"]


@pytest.fixture
def several(both: Mapping[str, Given]) -> Given:
    return both["overlays/shared-engine"]


def drain_seconds(settings: Config) -> float:
    """How long a worker sends its clients away: the cap lengthens the window if it is full."""
    assert settings.limits.max_connections, "the grace period cannot be known without a bound of connections"
    at_most = settings.limits.max_connections / settings.drain.closes_per_second
    return max(settings.drain.window_seconds, at_most)


def test_the_pod_gets_the_time_that_its_drain_takes(given: Given) -> None:
    manifests, settings = given
    limits = settings.limits
    needed = (
        settings.drain.delay_seconds
        + drain_seconds(settings)
        + limits.close_seconds
        + limits.linger_seconds
        + SPARE_SECONDS
        + ENGINE_END_SECONDS
        + MARGIN_SECONDS
    )
    granted = pod(manifests)["terminationGracePeriodSeconds"]
    assert needed <= granted <= 1.2 * needed


def test_the_guide_shows_the_grace_periods_as_they_are(both: Mapping[str, Given]) -> None:
    rows = re.findall(r"^\| (base|shared engine) \| (.*) \|$", GUIDE, re.MULTILINE)
    assert [name for name, _ in rows] == ["base", "shared engine"]
    for (_, row), (manifests, settings) in zip(rows, both.values(), strict=True):
        cells = [int(re.findall("[0-9]+", cell)[0]) for cell in row.split(" | ")]
        limits = settings.limits
        closing = limits.close_seconds + limits.linger_seconds + SPARE_SECONDS
        parts = [settings.drain.delay_seconds, drain_seconds(settings), closing, ENGINE_END_SECONDS, MARGIN_SECONDS]
        assert cells == [*parts, sum(parts), pod(manifests)["terminationGracePeriodSeconds"]]


def test_the_time_for_load_balancers_is_given_once(given: Given) -> None:
    """A preStop hook would wait before SIGTERM, and drain.delay_seconds again after it."""
    manifests = given.manifests
    assert "lifecycle" not in container(manifests)


def test_only_with_other_pods_to_go_to_are_clients_sent_away_slowly(alone: Given, several: Given) -> None:
    drain = alone.settings.drain
    assert drain.delay_seconds == 0
    assert drain.window_seconds + drain.reconnect_seconds <= 15
    # 5 to 15 seconds until every kube-proxy and every ingress has heard.
    assert 5 <= several.settings.drain.delay_seconds <= 15
    assert several.settings.drain.window_seconds >= 30


def test_every_port_is_the_one_that_the_broker_listens_on(given: Given) -> None:
    manifests, settings = given
    defaults = {"ws": Server().listen, "api": Api().listen, "admin": Admin().listen}
    # Said again in the pod, so that an image of somebody's own needs no variables.
    assert {name: variables(manifests)[name] for name in IMAGE if name.endswith("_LISTEN")} == {
        name: value for name, value in IMAGE.items() if name.endswith("_LISTEN")
    }
    listening = {"ws": settings.server.listen, "api": settings.api.listen, "admin": settings.admin.listen}
    assert {name: parse_listen(text)[1] for name, text in listening.items()} == ports(manifests)
    assert {name: parse_listen(text)[1] for name, text in defaults.items()} == ports(manifests)
    assert {parse_listen(text)[0] for text in listening.values()} == {"0.0.0.0"}
    services = {one["metadata"]["name"]: one["spec"]["ports"] for one in manifests if one["kind"] == "Service"}
    assert {name: [port["targetPort"] for port in found] for name, found in services.items()} == {
        "ws-broker": ["ws"],
        "ws-broker-api": ["api"],
        "ws-broker-admin": ["admin"],
    }
    for found in services.values():
        for port in found:
            assert (port["name"], port["port"]) == (port["targetPort"], ports(manifests)[port["targetPort"]])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(manifests)[probe]["httpGet"]["port"] == "admin"


def test_the_network_policy_lets_each_neighbour_reach_one_port(given: Given) -> None:
    manifests = given.manifests
    policy = only(manifests, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    reached = [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]]
    assert reached == [["ws"], ["api"], ["admin"]]
    for rule in policy["ingress"]:
        (source,) = rule["from"]
        assert len(source["namespaceSelector"]["matchLabels"]) == 1


def test_clients_get_to_the_websocket_port_and_to_no_other(given: Given) -> None:
    manifests = given.manifests
    (rule,) = only(manifests, "Ingress")["spec"]["rules"]
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "ws-broker", "port": {"name": "ws"}}
    paths = [(path["path"], path["pathType"]) for path in rule["http"]["paths"]]
    assert paths == [("/ws", "Exact"), ("/client.js", "Exact")]
    route = only(manifests, "HTTPRoute")["spec"]
    matched = [match["path"] for one in route["rules"] for match in one["matches"]]
    assert [(match["value"], match["type"]) for match in matched] == paths
    for one in route["rules"]:
        assert one["backendRefs"] == [{"name": "ws-broker", "port": ports(manifests)["ws"]}]
    assert route["hostnames"] == [rule["host"]] == only(manifests, "Ingress")["spec"]["tls"][0]["hosts"]


def seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+)s?", text)
    assert found, text
    return float(found[1])


def test_no_proxy_cuts_a_client_that_is_silent_between_two_pings(given: Given) -> None:
    manifests, settings = given
    limits = settings.limits
    longest_silence = limits.ping_seconds * (1 + limits.ping_jitter) + limits.pong_seconds
    annotations = only(manifests, "Ingress")["metadata"]["annotations"]
    timeouts = {name: seconds(value) for name, value in annotations.items() if "-timeout" in name}
    assert sorted(timeouts) == [
        f"{vendor}/proxy-{what}-timeout"
        for vendor in ("nginx.ingress.kubernetes.io", "nginx.org")
        for what in ("read", "send")
    ]
    assert min(timeouts.values()) > longest_silence
    # F5's controller passes no upgrade on to a service that it was not told of.
    assert annotations["nginx.org/websocket-services"] == "ws-broker"
    (route,) = (
        one for one in only(manifests, "HTTPRoute")["spec"]["rules"] if one["matches"][0]["path"]["value"] == "/ws"
    )
    assert route["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_prometheus_finds_the_admin_port_of_every_pod(given: Given) -> None:
    manifests = given.manifests
    monitor = only(manifests, "ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    selected = monitor["selector"]["matchLabels"].items()
    (service,) = (
        one for one in manifests if one["kind"] == "Service" and selected <= one["metadata"]["labels"].items()
    )
    assert [port["name"] for port in service["spec"]["ports"]] == [endpoint["port"]] == ["admin"]
    # The alerts look for this job.
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "ws-broker"
    assert service["spec"]["clusterIP"] == "None"
    # A pod that drains, or is full, is not ready; its numbers are wanted all the same.
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert seconds(endpoint["scrapeTimeout"]) < seconds(endpoint["interval"])


def test_the_broker_heals_itself_before_kubernetes_restarts_everything(given: Given) -> None:
    """A stuck worker is killed after stuck_seconds, and the next one may take start_seconds."""
    manifests, settings = given
    probes, rules = container(manifests), settings.supervisor
    patience = {name: one["periodSeconds"] * one["failureThreshold"] for name, one in probes.items() if "Probe" in name}
    assert patience["livenessProbe"] >= rules.stuck_seconds + rules.start_seconds
    assert patience["startupProbe"] >= 2 * rules.start_seconds
    assert patience["readinessProbe"] <= rules.stuck_seconds
    paths = {name: one["httpGet"]["path"] for name, one in probes.items() if "Probe" in name}
    # Were readiness asked at the start, an engine that is away would have the pod killed.
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def memory_needed(settings: Config, count: int) -> float:
    """Of all processes, when everything that is bounded is at its bound."""
    limits, api = settings.limits, settings.api
    assert not any(policy.presence for policy in settings.channels.values()), "count limits.presence_members then"
    worker = (
        PROCESS_BYTES
        + limits.memory_bytes
        + limits.max_connections * CONNECTION_BYTES
        + api.max_waiting_publishes * limits.max_message_bytes
        + settings.auth.cached_tokens * CACHED_TOKEN_BYTES
    )
    # At the end a history stands there three times: itself, its copy, and the file's contents.
    engine = 3 * limits.history_bytes + limits.message_ids * MESSAGE_ID_BYTES
    if count > 1:
        engine += 2 * PROCESS_BYTES + count * (limits.link_output_bytes + limits.link_window_bytes)
    return count * worker + engine


def test_the_memory_limit_holds_all_that_the_configuration_lets_grow(given: Given) -> None:
    manifests, settings = given
    resources = container(manifests)["resources"]
    granted = quantity(resources["limits"]["memory"])
    assert memory_needed(settings, workers(manifests)) <= (1 - HEADROOM) * granted
    if workers(manifests) == 1:
        needed = memory_needed(settings, 1)
        assert f"| together | {needed / 2**20:.0f} of {granted / 2**20:.0f} |" in GUIDE
    # QoS class Guaranteed.
    assert resources["limits"] == resources["requests"]


def test_the_state_volume_holds_the_history_twice(alone: Given) -> None:
    """The draft is complete before it replaces the file of before."""
    manifests, limits = alone.manifests, alone.settings.limits
    # broker/engine/snapshot.py: the largest file that a start would read.
    file = 2 * limits.history_bytes + 1024 * limits.message_ids + 2**24
    claim = only(manifests, "PersistentVolumeClaim")["spec"]
    assert 2 * file <= quantity(claim["resources"]["requests"]["storage"])
    assert variables(manifests)["WSBROKER_SERVER_STATE_DIRECTORY"] == STATE
    (mount,) = (one for one in container(manifests)["volumeMounts"] if one["name"] == "state")
    assert mount == {"name": "state", "mountPath": STATE}
    # The new pod may take a while, and the history is still of use to it.
    assert limits.snapshot_seconds >= 5 * pod(manifests)["terminationGracePeriodSeconds"]


def test_a_broker_of_several_pods_leaves_its_history_to_the_engine(several: Given) -> None:
    # Not left out: the image has one of its own.
    assert variables(several.manifests)["WSBROKER_SERVER_STATE_DIRECTORY"] == ""
    assert several.settings.server.state_directory == ""
    assert not [one for one in several.manifests if one["kind"] == "PersistentVolumeClaim"]
    assert "state" not in {one["name"] for one in container(several.manifests)["volumeMounts"]}


def test_as_many_workers_start_as_the_cpu_limit_pays_for(given: Given) -> None:
    assert given.settings.server.workers == "auto"
    # A fraction would start one worker more than it pays for.
    assert quantity(container(given.manifests)["resources"]["limits"]["cpu"]) == workers(given.manifests)


def test_the_pod_runs_as_the_user_of_the_image_and_the_volumes_are_its_groups(given: Given) -> None:
    manifests = given.manifests
    context = pod(manifests)["securityContext"]
    (user, group) = re.findall(r"^USER ([0-9]+):([0-9]+)$", DOCKERFILE, re.MULTILINE)[0]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert context["fsGroup"] == int(group)
    (keys,) = (one["secret"] for one in pod(manifests)["volumes"] if "secret" in one)
    # Readable by the group, by nobody else, and written by nobody.
    assert keys["defaultMode"] == 0o440


def allowed_ports(policy: Any) -> set[int]:
    return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def asked_by(settings: Config) -> Iterable[str]:
    yield from (url for url in (settings.hook.url, *(key.jwks_url for key in settings.auth.keys.values())) if url)


def test_the_broker_may_ask_whom_its_configuration_names(given: Given) -> None:
    manifests, settings = given
    policy = only(manifests, "NetworkPolicy")
    for url in (*asked_by(settings), "https://www.example.com/ws-auth"):
        parts = urlsplit(url)
        assert (parts.port or {"http": 80, "https": 443}[parts.scheme]) in allowed_ports(policy)
    assert 53 in allowed_ports(policy)
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert {block["cidr"]: block["except"][0] for block in blocks} == {
        "0.0.0.0/0": "169.254.0.0/16",
        "::/0": "fe80::/10",
    }


def test_a_rollout_waits_until_the_last_pod_has_let_its_clients_go(several: Given) -> None:
    """Otherwise the pods that stay take in the clients of several at once, and some clients move twice."""
    manifests, settings = several
    spec = only(manifests, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert spec["minReadySeconds"] >= settings.drain.delay_seconds + drain_seconds(settings)
    startup = container(manifests)["startupProbe"]
    start = startup["periodSeconds"] * startup["failureThreshold"]
    assert spec["progressDeadlineSeconds"] > start + spec["minReadySeconds"]


def test_the_autoscaler_adds_pods_before_they_are_full_and_takes_them_away_one_by_one(several: Given) -> None:
    manifests, settings = several
    scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    deployment = only(manifests, "Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    # It would be set back to that number at each `kubectl apply`.
    assert "replicas" not in deployment["spec"]
    by_kind = {one["type"]: one for one in scaler["metrics"]}
    assert set(by_kind) == {"Pods", "Resource"}
    metric, target = by_kind["Pods"]["pods"]["metric"]["name"], by_kind["Pods"]["pods"]["target"]
    assert metric in {f"wsbroker_{one.name}" for one in catalogue.WORKER_GAUGES}
    room = settings.limits.max_connections * workers(manifests)
    assert 0.5 * room <= quantity(target["averageValue"]) <= 0.8 * room
    # One pod of the fewest may go, and the others take its clients in.
    fewest = scaler["minReplicas"]
    budget = only(manifests, "PodDisruptionBudget")["spec"]
    assert 1 <= budget["maxUnavailable"] < fewest < scaler["maxReplicas"]
    down = scaler["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] >= pod(manifests)["terminationGracePeriodSeconds"]
    assert (
        down["stabilizationWindowSeconds"]
        > policy["periodSeconds"]
        > scaler["behavior"]["scaleUp"]["stabilizationWindowSeconds"]
    )
