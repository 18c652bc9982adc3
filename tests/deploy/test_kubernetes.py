"""The manifests of deploy/kubernetes are what a cluster takes, `restricted` allows, and the broker starts with."""

import copy
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker import __version__
from tests.deploy.kustomize import BUILT, FOLDER, Manifest, composed, problems, rendered, tool
from tests.deploy.manifests import Files, container, only, pod
from tests.process.admin import FLAGS, Admin
from tests.process.command import serving

# The oldest that docs/kubernetes.md names, and the newest whose schemas the tests have.
VERSIONS = ("1.28", "1.37")
FOLDERS = ("base", "overlays/example", "overlays/shared-engine")
COMPONENTS = tuple(sorted(f"components/{path.name}" for path in (FOLDER / "components").iterdir()))
# Objects that the manifests name and somebody else makes: the operator, and the shared engine that is to come.
FROM_ELSEWHERE = {("Secret", "ws-broker-keys"), ("Secret", "ws-broker-tls"), ("ConfigMap", "ws-broker-engine")}
# Says each file that is opened for writing, and each other change to the file system, on standard error.
WATCH = """
import os, runpy, sys
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
def watch(event, given):
    wrote = event == "open" and isinstance(given[0], (str, bytes)) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if wrote or event in CHANGES and not isinstance(given[0], int):
        print(f"CHANGED {os.fsdecode(given[0])}", file=sys.stderr, flush=True)
sys.dont_write_bytecode = True
sys.addaudithook(watch)
sys.argv = ["ws-broker", *sys.argv[4:]]
runpy.run_module("broker", run_name="__main__", alter_sys=True)
"""


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def everything(folder: Path) -> list[Manifest]:
    """Base and all components at once."""
    return composed(folder, "base", *COMPONENTS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_cluster_takes_every_manifest(folder: str, version: str) -> None:
    found = {one["kind"]: faults for one in rendered(folder) if (faults := problems(one, version))}
    assert not found


def test_a_cluster_takes_every_component_alone_and_all_together(tmp_path: Path) -> None:
    for names in (*((name,) for name in COMPONENTS), COMPONENTS):
        manifests = composed(make(tmp_path / "+".join(names).replace("/", "-")), "base", *names)
        assert len(manifests) == len(rendered("base")) + len(names)
        assert not [fault for one in manifests for fault in problems(one, VERSIONS[-1])]


def test_a_cluster_takes_the_components_with_several_pods(tmp_path: Path) -> None:
    manifests = composed(tmp_path, "overlays/shared-engine", *COMPONENTS)
    assert not [fault for one in manifests for fault in problems(one, VERSIONS[0])]


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field whose name is Kubernetes' and not one's own."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from fields(inner, (*path, index))
    elif isinstance(value, dict) and not {"metadata", "matchLabels", "selector", "data", "limits", "requests"} & {
        *path[-1:]
    }:
        for key, inner in value.items():
            yield (*path, key)
            yield from fields(inner, (*path, key))


def test_a_misspelt_field_of_any_manifest_is_found(tmp_path: Path) -> None:
    """Otherwise the API server drops it with a warning that nobody reads, and the default is in force."""
    for manifest in [*everything(tmp_path), *rendered("overlays/shared-engine")]:
        if {"spec"} & manifest.keys():
            *outer, key = max(fields(manifest), key=len)
            broken = copy.deepcopy(manifest)
            place: Any = broken
            for step in outer:
                place = place[step]
            place[f"{key}s"] = place.pop(key)
            assert problems(broken, VERSIONS[-1]), (manifest["kind"], outer, key)


def test_the_pod_is_what_the_restricted_policy_allows() -> None:
    """The list of kubernetes.io/docs/concepts/security/pod-security-standards; the namespace enforces it."""
    labels = only(rendered("base"), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for folder in FOLDERS:
        spec, box = pod(rendered(folder)), container(rendered(folder))
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & spec.keys()
        assert not [one for one in box["ports"] if "hostPort" in one]
        taken = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
        assert taken <= allowed | {"secret"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "sysctls" not in spec["securityContext"]
        assert box["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_pod_gets_no_variable_and_no_token_that_nobody_asked_for() -> None:
    """WSBROKER_* is configuration: a service link of that name would stop the start."""
    for folder in FOLDERS:
        spec = pod(rendered(folder))
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        account = only(rendered(folder), "ServiceAccount", spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


def referred(spec: Any) -> Iterator[tuple[str, str]]:
    for volume in spec["volumes"]:
        for kind, key, of in (
            ("ConfigMap", "configMap", "name"),
            ("Secret", "secret", "secretName"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            if key in volume:
                yield kind, volume[key][of]
    for source in (one for box in spec["containers"] for one in box.get("envFrom", ())):
        yield "ConfigMap", source["configMapRef"]["name"]


def test_what_the_pod_mounts_and_reads_is_there_under_that_name(tmp_path: Path) -> None:
    for manifests in (everything(tmp_path), *map(rendered, FOLDERS)):
        there = {(one["kind"], one["metadata"]["name"]) for one in manifests}
        assert set(referred(pod(manifests))) <= there | FROM_ELSEWHERE
        spec, box = pod(manifests), container(manifests)
        assert {mount["name"] for mount in box["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        # A mount by subPath never changes again, so that a reload would read what was there at the start.
        assert not [mount for mount in box["volumeMounts"] if "subPath" in mount]


def test_everything_goes_to_the_namespace_that_the_operator_chose(tmp_path: Path) -> None:
    manifests = composed(tmp_path, "overlays/shared-engine", *COMPONENTS, namespace="elsewhere")
    for one in (*everything(make(tmp_path / "default")), *rendered("overlays/example"), *manifests):
        name = one["metadata"]["name"] if one["kind"] == "Namespace" else one["metadata"].get("namespace")
        assert name == ("elsewhere" if one in manifests else "ws-broker"), one["kind"]


def test_every_selector_selects_the_pods_of_the_broker(tmp_path: Path) -> None:
    for manifests in (everything(tmp_path), rendered("overlays/shared-engine")):
        deployment = only(manifests, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        selectors = [deployment["spec"]["selector"]["matchLabels"]]
        for one in manifests:
            match one["kind"]:
                case "Service":
                    selectors.append(one["spec"]["selector"])
                case "PodDisruptionBudget":
                    selectors.append(one["spec"]["selector"]["matchLabels"])
                case "NetworkPolicy":
                    selectors.append(one["spec"]["podSelector"]["matchLabels"])
        selectors += [
            one["labelSelector"]["matchLabels"] for one in pod(manifests).get("topologySpreadConstraints", ())
        ]
        assert len(selectors) >= 5
        assert [one for one in selectors if not one or not one.items() <= labels] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_broker_takes_its_configuration_from_the_configmap_and_the_variables(folder: str, tmp_path: Path) -> None:
    Files(tmp_path, rendered(folder)).check()


def test_the_example_begins_with_the_configuration_of_the_base() -> None:
    """It is a copy, because kustomize reads no file from another folder."""
    assert (FOLDER / "overlays/example/broker.toml").read_text() == (FOLDER / "base/broker.toml").read_text()


def test_the_pod_starts_as_its_manifest_says_and_writes_only_where_it_may(tmp_path: Path) -> None:
    """readOnlyRootFilesystem: only the state volume and /tmp are there to be written to."""
    folder = make(tmp_path / "pod")
    files = Files(folder, rendered("base"))
    watch = tmp_path / "watch.py"
    watch.write_text(WATCH)
    # One CPU in the pod; the ports of the manifest may be taken here.
    extra = {**files.variables, "WSBROKER_SERVER_WORKERS": "1"}
    arguments = (*files.arguments[1:], *FLAGS)
    with serving(*arguments, dev=False, prefix=[sys.executable, str(watch)], extra=extra) as broker:
        with closing(broker.open("news")):
            # What the kubelet and Prometheus ask it.
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container(rendered("base"))[probe]["httpGet"]["path"]
                assert Admin(broker).probe(path)[0] == 200, probe
            (endpoint,) = only(everything(make(tmp_path / "all")), "ServiceMonitor")["spec"]["endpoints"]
            assert 'wsbroker_connections{worker="0"} 1.0' in Admin(broker).ask(endpoint["path"]).text
        assert broker.stop() == 0, broker.errors
    changed = {Path(path) for path in re.findall(r"^CHANGED (.*)$", broker.errors, re.MULTILINE)}
    state = folder / "state"
    assert state / "history.snapshot.draft" in changed  # or nothing was watched
    assert {path for path in changed if not path.is_relative_to(state)} <= {Path(extra.get("TMPDIR", "/tmp"))}
    assert (state / "history.snapshot").is_file()


def test_the_image_is_of_this_version_and_never_latest() -> None:
    assert container(rendered("base"))["image"] == f"ws-broker:{__version__}"
    assert container(rendered("overlays/example"))["image"] == f"registry.example.com/ws-broker:{__version__}"


def test_several_pods_wait_for_the_shared_engine_that_there_is_not_yet() -> None:
    """They would be brokers that do not hear each other."""
    assert only(rendered("base"), "Deployment")["spec"]["replicas"] == 1
    assert not [one for one in rendered("base") if one["kind"] in ("HorizontalPodAutoscaler", "PodDisruptionBudget")]
    manifests = rendered("overlays/shared-engine")
    (source,) = container(manifests)["envFrom"]
    # Not optional: the kubelet starts no container without it, and nobody makes it yet.
    assert source == {"configMapRef": {"name": "ws-broker-engine"}}
    assert not [one for one in manifests if one["metadata"]["name"] == "ws-broker-engine"]
    head = (FOLDER / "overlays/shared-engine/kustomization.yaml").read_text().partition("\napiVersion")[0]
    assert "THERE IS NONE YET" in head


def test_whoever_has_no_kustomize_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if not BUILT.is_file():
        with pytest.raises(AssertionError, match=r"deploy/packages\.sh test says what to install"):
            tool()
    for name, verb in (("kubectl", "kustomize"), ("kustomize", "build")):
        program = tmp_path / name
        program.touch(0o755)
        expected: Sequence[str] = [str(BUILT), "build"] if BUILT.is_file() else [str(program), verb]
        assert tool() == expected
