"""Make a GitLab child pipeline of `envbuild matrix --json` on stdin: publish, gate and promote for each image.

The jobs' common part is in ci/gitlab/image.gitlab-ci.yml. JSON is YAML, so nothing but the standard library is needed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

COMMON = "ci/gitlab/image.gitlab-ci.yml"


def child_pipeline(matrix: dict[str, Any]) -> dict[str, Any]:
    """The pipeline; an image waits for the one that it extends, whose layers it then finds in the cache."""
    entries = matrix["include"]
    planned = {entry["ref"] for entry in entries}
    pipeline: dict[str, Any] = {"include": [{"local": f"/{COMMON}"}]}
    for entry in entries:
        ref = entry["ref"]
        variables = {"ENVBUILD_REF": ref, "ENVBUILD_SLUG": f"{entry['name']}-{entry['tag']}"}
        before = (
            [{"job": f"publish {entry['needs']}", "artifacts": False}] if entry["needs"] in planned else []
        )
        digest = {"job": f"publish {ref}", "artifacts": True}
        pipeline[f"publish {ref}"] = {"extends": ".publish", "variables": variables, "needs": before}
        if entry["runner"] == "large":
            pipeline[f"publish {ref}"]["tags"] = ["$ENVBUILD_LARGE_RUNNER"]
        pipeline[f"gate {ref}"] = {"extends": ".gate", "variables": variables, "needs": [digest]}
        pipeline[f"promote {ref}"] = {
            "extends": ".promote",
            "variables": variables,
            "needs": [digest, {"job": f"gate {ref}", "artifacts": False}],
        }
    if not entries:
        pipeline["nothing to build"] = {"extends": ".nothing"}
    return pipeline


if __name__ == "__main__":
    print(json.dumps(child_pipeline(json.load(sys.stdin)), indent=2))
