"""The schema of a custom resource, out of the CustomResourceDefinition that its project publishes.

    python -m tests.tools.crd_schema CRD.yaml VERSION SOURCE > tests/schemas/NAME.json

Run by hand when a newer release is wanted; what it writes is committed, so that tests need no network. Descriptions are
left out (nine tenths of the text), nothing else. SOURCE says where the file is from, with version and licence.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml


def schema_of(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """The openAPIV3Schema of one version. Raises ValueError if the definition has no such version."""
    (found,) = (one for one in definition["spec"]["versions"] if one["name"] == version)
    schema: dict[str, Any] = bare(found["schema"]["openAPIV3Schema"])
    return schema


def bare(schema: Any) -> Any:
    """Without descriptions; a property that is called so stays."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "description" and isinstance(value, str))}
    return {key: bare(value) for key, value in kept.items()}


if __name__ == "__main__":
    file, wanted, source = sys.argv[1:]
    contents = {"$comment": source, **schema_of(yaml.safe_load(Path(file).read_text()), wanted)}
    print(json.dumps(contents, indent=1, sort_keys=True))
