"""The manifests of Kubernetes are valid, and say of the service and of commands what is true."""

import copy
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from danqing.cli import commands
from danqing.service import settings
from danqing.service.routes import operations

KUBERNETES = Path(__file__).parents[1] / "deploy" / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
COMMANDS = commands.command().commands

TEMPLATE: dict[str, Any] = {
    "type": "object",
    "properties": {"metadata": {"type": "object"}, "spec": {"type": "object"}},
    "required": ["spec"],
    "additionalProperties": False,
}
START: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
RAY_JOB: dict[str, Any] = {
    # What KubeRay documents of ray.io/v1 (ray-operator/apis/ray/v1), as far as it is used here.
    "type": "object",
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "activeDeadlineSeconds": COUNT,
                "backoffLimit": COUNT,
                "rayClusterSpec": {
                    "type": "object",
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "headGroupSpec": {
                            "type": "object",
                            "properties": {"rayStartParams": START, "template": TEMPLATE},
                            "required": ["rayStartParams", "template"],
                            "additionalProperties": False,
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "rayStartParams": START,
                                    "template": TEMPLATE,
                                },
                                "required": [
                                    "groupName",
                                    "minReplicas",
                                    "maxReplicas",
                                    "rayStartParams",
                                    "template",
                                ],
                                "additionalProperties": False,
                            },
                        },
                    },
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                },
            },
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
        },
    },
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
}


def objects(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def the(kind: str, folder: str = "service") -> dict[str, Any]:
    (found,) = (
        each
        for path in sorted((KUBERNETES / folder).glob("*.yaml"))
        for each in objects(path)
        if each["kind"] == kind
    )
    return found


def check(document: dict[str, Any]) -> None:
    for version in ("1.32", "1.37"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            kubernetes_validate.validate(document, version, strict=True)


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specifications of all pods in a document."""
    if document["kind"] in ("Deployment", "Job"):
        yield document["spec"]["template"]["spec"]
    if document["kind"] == "RayJob":
        cluster = document["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_a_manifest_is_valid_and_its_pods_are_confined(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "postgresql://" not in text, "the address of the database, with its password, is in a secret"
    for document in objects(path):
        if document["kind"] == "RayJob":
            jsonschema.validate(document, RAY_JOB)
            for pod in pods(document):
                check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": pod})
        else:
            check(document)
        for pod in pods(document):
            assert pod["securityContext"]["runAsNonRoot"]
            assert f"--uid {pod['securityContext']['runAsUser']} " in image()
            assert pod["automountServiceAccountToken"] is False
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert not container["securityContext"]["allowPrivilegeEscalation"]
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
                assert "memory" in container["resources"]["limits"]
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def image() -> str:
    return (KUBERNETES.parent / "Dockerfile").read_text(encoding="utf-8")


def test_an_unknown_field_would_be_found() -> None:
    document = copy.deepcopy(the("Deployment"))
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(document)


def test_the_settings_are_ones_of_the_service_and_fit_the_deployment(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text(the("ConfigMap")["data"]["service.toml"], encoding="utf-8")
    found = settings.checked(settings.read(file))
    pod = the("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}

    assert found.host == "0.0.0.0"
    assert [port["containerPort"] for port in container["ports"]] == [found.port]
    assert found.drain < pod["terminationGracePeriodSeconds"]
    assert not mounts[str(found.data)].get("readOnly")
    assert all(str(Path(model).parent) in mounts for model in found.models.values())
    assert not found.database
    words = container["args"]
    assert COMMANDS["serve"].make_context("serve", words[1:]).params["config"] == Path(
        "/etc/danqing/service.toml"
    )
    assert "/etc/danqing" in mounts
    volume = next(each for each in pod["volumes"] if each["name"] == mounts["/etc/danqing"]["name"])
    assert volume["configMap"]["name"] == the("ConfigMap")["metadata"]["name"]


def test_probes_ask_for_routes_of_the_service() -> None:
    (container,) = the("Deployment")["spec"]["template"]["spec"]["containers"]
    routes = {route.path for route in operations.router.routes}  # type: ignore[attr-defined]
    probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert {probe["path"] for probe in probes.values()} <= routes
    assert probes["readinessProbe"]["path"] == "/readyz"
    assert probes["livenessProbe"]["path"] == "/healthz", "a worker that restarts is no reason to kill both"
    ports = {port["name"] for port in container["ports"]}
    assert {probe["port"] for probe in probes.values()} <= ports
    assert {port["targetPort"] for port in the("Service")["spec"]["ports"]} <= ports
    ingress = the("NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in ingress for port in rule["ports"]} <= ports


def test_everything_selects_the_pods_of_the_service() -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert the("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert the("Service")["spec"]["selector"].items() <= labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert the("Deployment")["spec"]["replicas"] == 2 > the("PodDisruptionBudget")["spec"]["minAvailable"]
    listed = yaml.safe_load((KUBERNETES / "service/kustomization.yaml").read_text())["resources"]
    there = {path.name for path in (KUBERNETES / "service").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed) == there


def test_the_address_of_the_database_comes_from_the_secret_that_the_documents_create() -> None:
    (container,) = the("Deployment")["spec"]["template"]["spec"]["containers"]
    (source,) = container["envFrom"]
    option = next(each for each in COMMANDS["serve"].params if each.name == "database_url")
    document = (KUBERNETES.parents[1] / "docs/scale.md").read_text(encoding="utf-8")
    assert f"create secret generic {source['secretRef']['name']}" in document
    assert f"--from-literal {option.envvar}=" in document
    for claim in re.findall(r"claimName: ([a-z-]+)", "".join(path.read_text() for path in MANIFESTS)):
        assert f"`{claim}`" in document


def test_the_overlay_for_gpus_changes_what_is_there() -> None:
    overlay = yaml.safe_load((KUBERNETES / "service-gpu/kustomization.yaml").read_text())
    assert [(KUBERNETES / "service-gpu" / path).is_dir() for path in overlay["resources"]] == [True]
    deployment = copy.deepcopy(the("Deployment"))
    (patch,) = overlay["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": deployment["metadata"]["name"]}
    for change in yaml.safe_load(patch["patch"]):
        assert change["op"] == "add"
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]
        ]
        place: Any = deployment
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            place.append(change["value"])
        else:
            place[last] = change["value"]
    check(deployment)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert COMMANDS["serve"].make_context("serve", container["args"][1:]).params["device"] == "cuda"


def test_the_commands_of_jobs_parse_and_write_to_storage_that_outlives_them() -> None:
    lines = [the("RayJob", "ray")["spec"]["entrypoint"]]
    for name in ("one-node", "several-nodes"):
        (job,) = (each for each in objects(KUBERNETES / f"train/{name}.yaml") if each["kind"] == "Job")
        (container,) = job["spec"]["template"]["spec"]["containers"]
        line = container["args"][0] if "command" in container else shlex.join(container["args"])
        lines.append(f"danqing {line.split('danqing ')[-1]}")
    for line in lines:
        _, command, *words = shlex.split(line)
        given = COMMANDS[command].make_context(command, words).params
        assert Path(given["out"]).is_relative_to("/shared")
    ray = the("RayJob", "ray")["spec"]["rayClusterSpec"]
    assert f"ray=={ray['rayVersion']}" in (KUBERNETES.parents[1] / "constraints.txt").read_text()
    assert ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_processes_on_several_nodes_find_the_first() -> None:
    service, job = objects(KUBERNETES / "train/several-nodes.yaml")
    pod = job["spec"]["template"]["spec"]
    (line,) = pod["containers"][0]["args"]
    options = dict(re.findall(r"--([a-z-]+) (\S+)", line.partition("-m danqing")[0]))
    assert options["master-addr"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert int(options["nnodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(options["master-port"]) == pod["containers"][0]["ports"][0]["containerPort"]
    assert options["node-rank"] == "$JOB_COMPLETION_INDEX"
