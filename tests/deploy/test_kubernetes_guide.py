"""docs/kubernetes.md: what can be run without a cluster works as it stands there; the rest names what there is."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from broker.metrics import catalogue
from tests.deploy.kustomize import FOLDER, ROOT, render
from tests.deploy.manifests import Files, container, only, pod
from tests.process.admin import FLAGS
from tests.process.command import PATIENCE_SECONDS, serving
from tests.process.examples import shell

GUIDE = (ROOT / "docs/kubernetes.md").read_text()
API = "http://127.0.0.1:8001/"

# Its publisher waits for the subscriber in the same thread.
pytestmark = pytest.mark.blocks_loop


def block(language: str, containing: str) -> str:
    """The one block that contains this text."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (text,) = (one for one in found if containing in one)
    return str(text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where the reader stands after the first two blocks."""
    folder = tmp_path / "checkout"
    shutil.copytree(FOLDER, folder / "deploy/kubernetes")
    for line in (*block("sh", "cp -r").splitlines(), block("sh", "sed -i")):
        shell(line, folder)
    return folder


def test_after_the_first_steps_the_back_end_publishes_and_a_page_hears_it(checkout: Path, tmp_path: Path) -> None:
    manifests = render(checkout / "deploy/kubernetes/overlays/mine")
    # What a cluster of one's own machine has not.
    assert {one["kind"] for one in manifests} == {one["kind"] for one in render(FOLDER / "base")}
    assert container(manifests)["image"] == container(render(FOLDER / "base"))["image"]
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    files = Files(mounted, manifests)
    assert list(files.settings().api.keys) == ["backend"]
    with serving(*files.arguments[1:], *FLAGS, dev=False, extra=files.variables) as broker:
        with connect(broker.url, subprotocols=[Subprotocol("news")]) as subscriber:
            line = block("sh", "curl").replace(API, f"{broker.api_url}/")
            assert line.count(broker.api_url) == 1
            shell(line.replace("curl ", "curl -fsS ", 1), checkout)
            assert subscriber.recv(PATIENCE_SECONDS) == '{"hello": 1}'
        assert broker.stop() == 0, broker.errors


def test_the_commands_for_a_cluster_name_what_is_in_the_manifests(checkout: Path) -> None:
    """They are not run: there is no cluster. So that they do not grow old, every name in them is looked up."""
    manifests = render(checkout / "deploy/kubernetes/overlays/mine")
    commands = block("text", "kind create")
    (secret, file) = re.findall(r"create secret generic (\S+) --from-file=keys/(\S+)", commands)[0]
    assert secret in [one["secret"]["secretName"] for one in pod(manifests)["volumes"] if "secret" in one]
    assert (checkout / "keys" / file).is_file()
    assert f'file = "/etc/ws-broker-keys/{file}"' in only(manifests, "ConfigMap")["data"]["broker.toml"]
    assert f"-t {container(manifests)['image']} ." in commands
    there = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in manifests}
    named = set(re.findall(r"(?:deployment|service|configmap)/\S+", GUIDE.replace("`", " ")))
    assert named <= there, named - there
    namespaces = set(re.findall(r"(?:-n|create namespace) (\S+)", commands))
    assert namespaces == {only(manifests, "Namespace")["metadata"]["name"]}
    for service, port in re.findall(r"port-forward service/(\S+) (\d+)", commands):
        assert [one["port"] for one in only(manifests, "Service", service)["spec"]["ports"]] == [int(port)]
    for path in re.findall(r"deploy/kubernetes\S*|apply -k (\S+)", commands):
        assert path in ("", "deploy/kubernetes/overlays/mine")


def test_the_rule_for_the_autoscaler_counts_the_workers_of_a_pod_together() -> None:
    (rule,) = yaml.safe_load(block("yaml", "seriesQuery"))["rules"]
    scaler = yaml.safe_load((FOLDER / "overlays/shared-engine/autoscaler.yaml").read_text())["spec"]
    (metric,) = (one["pods"]["metric"]["name"] for one in scaler["metrics"] if one["type"] == "Pods")
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].partition("{")[0] in {f"wsbroker_{one.name}" for one in catalogue.WORKER_GAUGES}
    assert rule["metricsQuery"].startswith("sum(")


def test_every_folder_is_in_the_table() -> None:
    folders = {path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("kustomization.yaml")}
    assert set(re.findall(r"^\| `(\S+)` \|", GUIDE, re.MULTILINE)) >= folders
