"""The packages of this environment, from their own metadata, as a CycloneDX 1.6 bill of materials in JSON.

python requirements/sbom.py > sbom.json

The same environment gives the same bytes, as no time is written.
"""

import json
import re
from importlib.metadata import Distribution, distributions
from typing import Any

PRODUCT = "skipwise"


def bill(installed: list[Distribution]) -> dict[str, Any]:
    """One component for each distribution, with its licence and what it needs of the others."""
    named = {_name(one.metadata["Name"]): one for one in installed}
    components = {name: _component(name, one) for name, one in sorted(named.items())}
    needs = {name: _needs(one) & named.keys() - {name} for name, one in named.items()}
    references = {name: component["bom-ref"] for name, component in components.items()}
    content: dict[str, Any] = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    if product := components.pop(PRODUCT, None):
        content["metadata"] = {"component": product | {"type": "application"}}
    return content | {
        "components": list(components.values()),
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[one] for one in needs[name])}
            for name in sorted(references)
        ],
    }


def _component(name: str, one: Distribution) -> dict[str, Any]:
    reference = f"pkg:pypi/{name}@{one.version.replace('+', '%2B')}"
    component = {"type": "library", "bom-ref": reference, "name": name, "version": one.version, "purl": reference}
    if expression := one.metadata.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    elif found := [text.split(" :: ")[-1] for text in one.metadata.get_all("Classifier", []) if text[:7] == "License"]:
        component["licenses"] = [{"license": {"name": text}} for text in sorted(set(found))]
    return component


def _needs(one: Distribution) -> set[str]:
    """Names of what it asks for, extras too where they happen to be installed."""
    return {_name(re.match(r"[\w.-]+", text)[0]) for text in one.requires or []}


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


if __name__ == "__main__":
    print(json.dumps(bill(list(distributions())), indent=2))
