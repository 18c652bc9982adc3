"""The folders of deploy/kubernetes as a cluster gets them: by the real kustomize, held against published schemas.

kustomize is the one that deploy/packages.sh finds or builds. Nothing here asks a cluster or the network.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
# Where deploy/packages.sh leaves it if it has to build it.
BUILT = ROOT / "build" / "tools" / "kustomize"
SCHEMAS = ROOT / "tests" / "schemas"
# Kinds that are no part of Kubernetes itself, and where their projects' schemas are.
CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "servicemonitor.json",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "httproute.json",
}

Manifest = dict[str, Any]


def tool() -> list[str]:
    """The command that renders the folder which is its last argument."""
    if BUILT.is_file():
        return [str(BUILT), "build"]
    for name, verb in (("kustomize", "build"), ("kubectl", "kustomize")):
        if found := shutil.which(name):
            return [found, verb]
    raise AssertionError("neither kustomize nor kubectl is here; sh deploy/packages.sh test says what to install")


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """All objects of a folder below deploy/kubernetes."""
    return tuple(render(FOLDER / folder))


def render(folder: Path) -> list[Manifest]:
    done = subprocess.run([*tool(), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Deprecated fields of a kustomization are said there, and nothing else.
    assert not done.stderr, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def composed(folder: Path, resource: str, *components: str, **more: str) -> list[Manifest]:
    """`resource` with these components, as somebody puts them together in a folder of his own."""

    def beside(name: str) -> str:
        return os.path.relpath(FOLDER / name, folder)

    contents = {"resources": [beside(resource)], "components": [beside(name) for name in components], **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(contents))
    return render(folder)


def problems(manifest: Manifest, version: str) -> list[str]:
    """What the API server of this Kubernetes would refuse, unknown fields included; a kind that nobody knows, too."""
    kind = (manifest["apiVersion"], manifest["kind"])
    if kind in CUSTOM:
        validator = Draft202012Validator(closed(json.loads((SCHEMAS / CUSTOM[kind]).read_text())))
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def closed(schema: Any) -> Any:
    """An object takes what its properties name and nothing else: the API server would drop the rest without a word.
    `metadata` is Kubernetes' own, and empty in every schema of a custom resource.
    """
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        inner["additionalProperties"] = False
    return inner
