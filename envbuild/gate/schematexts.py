"""The texts of the published schema: of each definition its title and description, of each key what it holds.

They are for readers of docs/reference/verdict.schema.json, who may not know the code.
"""

from __future__ import annotations

from typing import Final

TYPES: Final[dict[str, tuple[str, str]]] = {
    "Statement": ("in-toto statement", "An in-toto statement, version 1: says something about its subjects."),
    "Descriptor": (
        "resource descriptor",
        "What is meant, by name and by digest (in-toto's ResourceDescriptor).",
    ),
    "Predicate": (
        "test result",
        "in-toto's test result, version 0.1. The lists hold ids of checks; a check that was not run is in none.",
    ),
    "Verdict": ("verdict", "The suite's answer about one image, with the evidence."),
    "Subject": (
        "image",
        "The image that was tested. After `docker load` an engine knows only config and diff_ids.",
    ),
    "Gpu": ("GPU", "One GPU on which torch computed."),
    "Host": ("machine", "The machine as the container saw it."),
    "CheckRecord": ("check", "One check of the suite, with its answer. Times are in seconds."),
}

FIELDS: Final[dict[str, dict[str, str]]] = {
    "Statement": {
        "_type": "The type of the statement.",
        "subject": "What the statement is about: the image's manifest and its config, or a Python environment.",
        "predicateType": "The type of the predicate.",
        "predicate": "What is said about the subjects.",
    },
    "Descriptor": {
        "name": "The image's name (`#config` after it: its config), a file's name, or an executable's path.",
        "digest": "Digests in hexadecimal, by the name of the algorithm. `envbuildPackages` is SHA-256 over "
        "the packages and versions of a Python environment.",
    },
    "Predicate": {
        "result": "PASSED; WARNED where a check that passed warned; FAILED for a failure and for a candidate.",
        "configuration": "What the answer depends on: the expectations, the suite and, for an image, its lock.",
        "passedTests": "Checks that passed without a warning.",
        "warnedTests": "Checks that passed with warnings.",
        "failedTests": "Checks that failed.",
        "envbuild": "The whole verdict, from which all else in the statement follows.",
    },
    "Verdict": {
        "kind": "What this object is.",
        "format": "The number of this format.",
        "subject": "The image; null where the suite ran in a Python environment and no image was tested.",
        "result": "passed: every check passed on enough GPUs. candidate: none failed, but not every check ran. "
        "failed: a check failed.",
        "why": "The reason for the result, in one line.",
        "suite": "The digest of the suite's files.",
        "engine": "The name and version of what ran the container.",
        "lock": "The digest of lock.json; null where there was no lock.",
        "driver": "The version of the NVIDIA driver; null where there was none.",
        "gpus": "The GPUs, one entry for each.",
        "host": "The machine.",
        "environment": "Environment variables that change what the checks see, by name.",
        "started": "When the suite started (RFC 3339, UTC).",
        "seconds": "How long the suite ran, in seconds.",
        "expectations": "What recipe and lock promise; the checks compare with it.",
        "checks": "Every check, also those that were not run.",
    },
    "Subject": {
        "ref": "The image's name: recipe and tag.",
        "manifest": "The digest of the image's manifest.",
        "config": "The digest of the image's config.",
        "diff_ids": "The digests of the uncompressed layers, the lowest first.",
    },
    "Gpu": {
        "index": "Its number, as torch counts.",
        "name": "The model's name.",
        "uuid": "The driver's identifier of the device.",
        "capability": "The compute capability, major and minor.",
        "memory": "Memory in bytes.",
        "processors": "The number of streaming multiprocessors.",
        "torch": "How torch's kernels reach this GPU: as machine code, or compiled from PTX by the driver. "
        "null: not known.",
        "operator": "The same of DeepSpeed's compiled operator. null: there is none, or it is not known.",
    },
    "Host": {
        "kernel": "The kernel's release.",
        "machine": "The processor architecture, as `uname -m` prints it.",
        "system": "The distribution; null: not known.",
        "libc": "The C library and its version.",
        "python": "Python's version.",
        "executable": "The path of the Python that ran the suite.",
        "cpus": "The number of processors that the suite could use.",
        "memory": "Main memory in bytes.",
        "shm": "The size of /dev/shm in bytes; null where there is none.",
        "gpus": "The number of GPUs that the kernel shows.",
        "driver": "The version of the NVIDIA driver; null where there is none.",
    },
    "CheckRecord": {
        "id": "The check's name.",
        "reason": "What the check is for.",
        "status": "The answer.",
        "timeout": "How long the check might take, in seconds.",
        "seconds": "How long it took, in seconds.",
        "cause": "Why it failed: its answer was no, its process crashed, or its time was up. null: it did not fail.",
        "expected": "What was expected, for a reader; null where nothing is to say.",
        "seen": "What was found instead, or why the check was not run; null where nothing is to say.",
        "hint": "What to do about it; null where nothing is to say.",
        "numbers": "What the check measured. The keys depend on the check.",
        "warnings": "What is not right, but is no failure.",
        "output": "The end of what the check's process printed, unless it passed.",
    },
}
