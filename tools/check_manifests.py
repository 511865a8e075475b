"""Check docs/cluster/rayjob.yaml against the schemas of Kubernetes and of KubeRay, field by field.

    pip install kubernetes-validate
    python tools/check_manifests.py ray.io_rayjobs.yaml

The file is KubeRay's definition of a RayJob, helm-chart/kuberay-operator/crds in its repository.
A field that the schema does not know is an error: Kubernetes itself would drop it without a word.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

MANIFEST = Path(__file__).parents[1] / "docs/cluster/rayjob.yaml"


def strict(schema: Any) -> Any:
    """The schema with every field that it does not know refused."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {name: strict(value) for name, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_ended:
        found.setdefault("additionalProperties", False)
    return found


def main() -> int:
    definition = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    versions = {one["name"]: one["schema"] for one in definition["spec"]["versions"]}
    for document in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")):
        group, _, version = document["apiVersion"].rpartition("/")
        if group == definition["spec"]["group"]:
            schema = strict(versions[version]["openAPIV3Schema"])
            # what every object has, the definition leaves to Kubernetes
            schema["properties"]["metadata"] = {"type": "object"}
            jsonschema.validate(document, schema)
            by = definition["metadata"]["name"]
        else:
            by = kubernetes_validate.validate(document, "1.31", strict=True)
        print(f"{document['kind']} {document['metadata']['name']}: valid by {by}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
