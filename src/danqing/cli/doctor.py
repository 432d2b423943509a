"""`danqing doctor`: what is installed, what is missing, and which settings the environment has."""

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from danqing import locale
from danqing.cli import output
from danqing.quantities import memory
from danqing.version import __version__

if TYPE_CHECKING:  # importing it would slow down every command
    from packaging.requirements import Requirement

EXAMPLES = """Examples:

  danqing doctor

  danqing doctor --json"""

_PURPOSES = {
    "adapters": "danqing train --preset lora",
    "cluster": "tune, compare, evaluate and replicas on a Ray cluster",
    "diffusers": "pretrained pipelines",
    "digits": "the built-in set digits",
    "emoji": "the built-in set emoji",
    "export": "danqing export --to onnx",
    "faces": "the search for faces in data check",
    "features": "the default feature network for scores",
    "filter": "the filter nsfw",
    "hed": "a second, independent feature network for scores",
    "heif": "HEIC photos",
    "medical": "DICOM and NIfTI files",
    "mlflow": "tracking with MLflow",
    "onnx": "feature networks in ONNX files",
    "openvino": "danqing export --to openvino",
    "parquet": "data in Parquet files",
    "postgresql": "a service whose database is PostgreSQL",
    "private": "danqing train --private",
    "scans": "JPEG XL, and colour of more than 8 bits",
    "search": "a search that stays fast beyond a million images",
    "serve": "danqing serve",
    "stores": "data in shards behind HTTP and S3 addresses",
    "style": "instant styles for danqing stylize",
    "text": "the sentence encoder that is a package",
    "track": "tracking with TensorBoard",
    "transformers": "text encoders, DINOv2 and CLIP from the hub",
    "trust": "Content Credentials, signed and sealed models",
    "tune": "danqing tune",
    "wandb": "tracking with Weights & Biases",
}
_FOR_DEVELOPERS = ("demo", "docs", "test")
_THREAD_NAMES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH_NUM")
_NETWORK = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME", "DANQING_MIRROR", "DANQING_DATA")
_LITTLE_DISK = 2 * 10**9


def doctor(as_json: output.JsonOption = False) -> None:
    """Show versions, devices, threads, extras and settings, with their problems."""
    versions, lacking = _versions()
    extras = _extras()
    cache = _cache()
    payload = {
        "versions": versions,
        **_machine(),
        "threads": _threads(),
        "extras": extras,
        "cache": cache,
        "network": _network(),
        "problems": [*lacking, *_disk_problems(cache)],
    }
    output.result(payload, _text(payload), as_json=as_json)


def _versions() -> tuple[dict[str, str], list[str]]:
    """The versions of Danqing, Python and all direct dependencies, and what is wrong with them."""
    versions, problems = {"danqing": __version__, "python": sys.version.split()[0]}, []
    for requirement in _requirements(""):
        installed = _installed(requirement)
        versions[requirement.name] = installed or "missing"
        if not _fits(requirement):
            problems.append(
                f"{requirement.name} is {installed or 'missing'}, but Danqing needs {requirement.specifier}: "
                f"run pip install '{requirement.name}{requirement.specifier}'"
            )
    return versions, problems


def _machine() -> dict[str, Any]:
    import torch

    from danqing import machine, precision

    device = precision.choose_device("auto")
    devices = ["cpu"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    hardware = machine.hardware(device)
    return {
        "processor": hardware["processor"],
        "memory_bytes": hardware["memory_bytes"],
        "system": hardware["system"],
        "devices": devices,
        "device": str(device),
        "precision": {"default": precision.candidates(device)[0], "bfloat16": _has_bfloat16(device)},
    }


def _has_bfloat16(device: Any) -> bool:
    """Whether the hardware multiplies bfloat16; otherwise it is emulated and slow."""
    from danqing import precision

    return "bfloat16" in precision.candidates(device)


def _threads() -> dict[str, Any]:
    import torch

    from danqing import threads

    named = {name: value for name, value in os.environ.items() if name.startswith(_THREAD_NAMES)}
    return {
        "torch": torch.get_num_threads(),
        "cores": threads.cores(),
        "environment": dict(sorted(named.items())),
    }


def _extras() -> list[dict[str, Any]]:
    """Each extra: what it is for, what is missing, and how to install it."""
    import importlib.metadata

    names = importlib.metadata.metadata("danqing").get_all("Provides-Extra") or []
    found = []
    for name in sorted(set(names) - set(_FOR_DEVELOPERS)):
        missing = sorted(str(each.name) for each in _requirements(name) if not _fits(each))
        purpose = _PURPOSES.get(name, "")
        how = f"pip install 'danqing[{name}]'"
        found.append({"name": name, "for": purpose, "missing": missing, "install": how if missing else None})
    return found


def _requirements(extra: str) -> Iterator["Requirement"]:
    """What Danqing, or one of its extras, requires on this system."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for line in importlib.metadata.requires("danqing") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if not extra else (not always and marker is not None and marker.evaluate({"extra": extra})):
            if canonicalize_name(requirement.name) == "danqing":  # an extra that includes another one
                for other in requirement.extras:
                    yield from _requirements(other)
            else:
                yield requirement


def _installed(requirement: "Requirement") -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(requirement: "Requirement") -> bool:
    installed = _installed(requirement)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def _cache() -> dict[str, Any]:
    from danqing.data.cache import default_folder

    folder = default_folder().absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    return {"folder": folder, "free_bytes": shutil.disk_usage(there).free, "is_writable": writable}


def _disk_problems(cache: dict[str, Any]) -> list[str]:
    if not cache["is_writable"]:
        return [f"{cache['folder']} cannot be written: set DANQING_CACHE to another folder"]
    if cache["free_bytes"] < _LITTLE_DISK:
        return [
            f"only {memory(cache['free_bytes'])} are free for {cache['folder']}: run danqing cache clear, or "
            "set DANQING_CACHE to another folder"
        ]
    return []


def _network() -> dict[str, str]:
    """The addresses and proxies in use, without their passwords."""
    import urllib.request

    named = {name: os.environ[name] for name in _NETWORK if os.environ.get(name)}
    proxies = {f"{scheme}_proxy": address for scheme, address in urllib.request.getproxies().items()}
    return {name: _without_password(value) for name, value in sorted({**named, **proxies}.items())}


def _without_password(address: str) -> str:
    try:
        parts = urlsplit(address)
        if "@" not in parts.netloc:
            return address
        return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))
    except ValueError:
        return "not an address"


def _text(found: dict[str, Any]) -> str:
    versions, threads, cache = found["versions"], found["threads"], found["cache"]
    shown = ("danqing", "python", "torch", "numpy", "pillow")
    others = [f"{name} {version}" for name, version in versions.items() if name not in shown]
    facts = {
        "Versions": ", ".join(f"{name} {versions.get(name, 'missing')}" for name in shown),
        "Others": ", ".join(others),
        "System": found["system"],
        "Processor": f"{found['processor']}, memory {memory(found['memory_bytes'])}",
        "Devices": f"{', '.join(found['devices'])}; chosen: {found['device']}",
        "Precision": f"{found['precision']['default']} is measured first; bfloat16 in hardware: "
        f"{'yes' if found['precision']['bfloat16'] else 'no'}",
        "Threads": ", ".join(
            [f"{threads['torch']} of torch on {threads['cores']} cores"]
            + [f"{name}={value}" for name, value in threads["environment"].items()]
        ),
        "Cache": f"{cache['folder']}, {memory(cache['free_bytes'])} free",
        "Network": ", ".join(f"{name}={value}" for name, value in found["network"].items())
        or "no proxy, mirror or endpoint is set",
    }
    rows = [
        (
            each["name"],
            locale.translate_exactly("missing" if each["missing"] else "installed"),
            each["for"],
            each["install"] or "",
        )
        for each in found["extras"]
    ]
    extras = output.table([("Extra", "State", "For", "To install"), *rows])
    problems = "".join(f"Problem: {problem}.\n" for problem in found["problems"]) or "No problems found.\n"
    return f"{output.facts(facts)}\n{extras}\n{problems}"
