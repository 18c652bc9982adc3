"""deploy/docker/compose.yaml: by the published schema, and by the real nginx and Prometheus for what they are given."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.config.load import load
from broker.config.schema import Config
from tests.process.command import ROOT
from tests.process.dockerfile import image

FILE = ROOT / "deploy" / "docker" / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
# The only port that is for others; the rest is for this machine.
OPEN = ["443:443"]


def test_compose_understands_every_line() -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_little_and_is_reached_from_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == (OPEN if name == "nginx" else [])
    assert re.fullmatch(r"[a-z/-]+:v?\d+(\.\d+)+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source = volume.split(":")[0]
        # The certificate is the operator's: docs/container.md makes one.
        if source.startswith(".") and not source.startswith("./tls/"):
            assert (FILE.parent / source).exists(), volume


def test_the_broker_understands_its_variables_and_has_time_to_drain() -> None:
    broker = SERVICES["broker"]
    given = {**broker["environment"], "WSBROKER_SERVER_ORIGINS": "https://www.example.com"}
    config = load(FILE.parent / "broker.toml", environment={**image().variables, **given})
    assert config.server.origins == ["https://www.example.com"]
    assert config.server.client_address == "x-forwarded-for"
    drain, limits = Config().drain, Config().limits
    least = drain.delay_seconds + drain.window_seconds + limits.close_seconds + limits.linger_seconds + 10
    assert float(broker["stop_grace_period"].removesuffix("s")) >= least
    for name in ("WSBROKER_SERVER_ORIGINS", "GRAFANA_PASSWORD"):
        # Compose says so if it is not set, instead of starting something that is of no use, or open.
        assert f"${{{name}:?" in FILE.read_text()


def prepared(name: str, folder: Path) -> None:
    """Runs what the service does before its program, in this folder: what it makes of the files that it is given."""
    *_, script = SERVICES[name]["entrypoint"]
    before = script.split("exec ")[0].strip().removesuffix("&&").replace("/tmp/", f"{folder}/")
    for volume in SERVICES[name]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            before = before.replace(target, str((FILE.parent / source).resolve()))
    subprocess.run(["sh", "-euc", before], check=True)


def test_nginx_is_told_the_broker_by_its_name(tmp_path: Path) -> None:
    prepared("nginx", tmp_path)
    text = (tmp_path / "nginx.conf").read_text()
    assert re.search(r"upstream ws_broker \{[^}]*\bserver broker:8000;", text)
    assert "access_log /dev/stdout" in text
    assert "127.0.0.1:8000" not in re.sub("#.*", "", text)
    # What nginx says of the rest. The name is there in the network of the containers only; a low port is root's.
    text = (
        text.replace("server broker:", "server localhost:")
        .replace(":443", ":8443")
        .replace("listen 443", "listen 8443")
    )
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-subj", "/CN=localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    for line, file in (("ssl_certificate_key", "key"), ("ssl_certificate", "certificate")):
        text = re.sub(rf"{line} [^;]+;", f"{line} {tmp_path}/{file};", text)
    for folder in re.findall(r"/var/lib/nginx/\w+|/run/nginx.pid|/var/log/nginx/error.log", text):
        text = text.replace(folder, f"{tmp_path}/{Path(folder).name}")
    (tmp_path / "nginx.conf").write_text(text)
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx
    tried = subprocess.run([nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr


def test_prometheus_is_told_the_broker_by_its_name(tmp_path: Path) -> None:
    prepared("prometheus", tmp_path)
    (job,) = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["broker:9000"]}]
    tried = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, check=False
    )
    assert tried.returncode == 0, tried.stdout


def test_grafana_finds_prometheus_and_its_board() -> None:
    grafana = SERVICES["grafana"]
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "${PROMETHEUS_URL}"
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/ws-broker.yml").read_text())["providers"]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
