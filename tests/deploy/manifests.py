"""What is asked of rendered manifests: the one object of a kind, its container, quantities, settings in force."""

import json
import math
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.config.schema import Config
from tests.deploy.kustomize import Manifest
from tests.process.command import COMMAND, ROOT, environment

KEYS = "/etc/ws-broker-keys"
STATE = "/var/lib/ws-broker"
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
# What the image sets; the variables of the pod win.
IMAGE = dict(re.findall(r"^(?:ENV|   ) (WSBROKER_\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 1e-3, "": 1}


def only(manifests: Iterable[Manifest], kind: str, name: str | None = None) -> Any:
    (found,) = (one for one in manifests if one["kind"] == kind and (name is None or one["metadata"]["name"] == name))
    return found


def pod(manifests: Iterable[Manifest]) -> Any:
    return only(manifests, "Deployment")["spec"]["template"]["spec"]


def container(manifests: Iterable[Manifest]) -> Any:
    (found,) = pod(manifests)["containers"]
    return found


def quantity(text: str) -> float:
    """Bytes or processors of a Kubernetes quantity."""
    digits = text.rstrip("".join(UNITS))
    return float(digits) * UNITS[text[len(digits) :]]


def ports(manifests: Iterable[Manifest]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}


def variables(manifests: Iterable[Manifest]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(manifests)["env"]}


def workers(manifests: Iterable[Manifest]) -> int:
    """`workers = "auto"`: broker/supervisor/cpus.py rounds the limit up."""
    return math.ceil(quantity(container(manifests)["resources"]["limits"]["cpu"]))


class Files:
    """What the pod has mounted, in a folder: the ConfigMap, the Secret as docs/kubernetes.md makes it, an empty volume.

    Paths inside broker.toml and the variables are those of the folder, as nothing can be mounted here; all else is what
    the pod gets.
    """

    def __init__(self, folder: Path, manifests: Sequence[Manifest]) -> None:
        self._folder = folder
        (folder / "state").mkdir()
        (folder / "keys").mkdir()
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        (folder / "keys" / "site.public.pem").write_bytes(
            key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self.variables = {name: self._here(value) for name, value in (IMAGE | variables(manifests)).items()}
        self.config = folder / "broker.toml"
        text = only(manifests, "ConfigMap", "ws-broker")["data"]["broker.toml"]
        self.config.write_text(self._here(text))
        self.arguments = [str(self.config) if one.startswith("/") else one for one in container(manifests)["args"]]

    def _here(self, text: str) -> str:
        return text.replace(KEYS, str(self._folder / "keys")).replace(STATE, str(self._folder / "state"))

    def check(self) -> None:
        """The real check-config takes it."""
        self._run("check-config")

    def settings(self) -> Config:
        """All values in force in the pod, defaults included, as the real show-config says them."""
        return msgspec.convert(_values(json.loads(self._run("show-config", "--format", "json"))), Config)

    def _run(self, command: str, *flags: str) -> str:
        done = subprocess.run(
            [*COMMAND, command, *self.arguments[1:], *flags],
            cwd=ROOT,
            env=environment(**self.variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _values(shown: Any) -> Any:
    if isinstance(shown, dict):
        return shown["value"] if shown.keys() == {"value", "from"} else {k: _values(v) for k, v in shown.items()}
    return shown
