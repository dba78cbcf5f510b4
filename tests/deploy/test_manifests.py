"""Every manifest against the schemas of Kubernetes and of the custom resources, without a cluster."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.manifests import (
    DEPLOY,
    Document,
    builder,
    built,
    documents,
    kustomizations,
    merged,
    patched,
    pods,
    resources,
    server_of,
    whole,
)

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.32", kubernetes_validate.latest_version())
needs_builder = pytest.mark.skipif(builder() is None, reason="neither kustomize nor kubectl is installed")


def validate(document: Document) -> None:
    """Check an object, and the pod templates in it. Raises if a field is unknown or wrong."""
    schema = SCHEMAS / f"{document['kind']}.json"
    if schema.is_file():
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(document)
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    for template in pods(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **template}
        for version in VERSIONS:
            kubernetes_validate.validate(pod, version, strict=True)


def name_of(value: Any) -> str:
    return str(value.relative_to(DEPLOY)) if isinstance(value, Path) else ""


@pytest.mark.parametrize(("file", "document"), resources(), ids=name_of)
def test_resources_are_valid(file: Path, document: Document) -> None:
    validate(document)


@pytest.mark.parametrize(
    ("name", "document"), patched(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_server_is_valid_with_each_patch(name: str, document: Document) -> None:
    validate(document)
    assert any(server_of(template) for template in pods(document))


def test_a_wrong_field_is_found() -> None:
    for file, document in resources():
        with pytest.raises(Exception, match="mistake"):
            validate(merged(document, {"mistake": 1} if "spec" not in document else {"spec": {"mistake": 1}}))
        if pods(document):
            broken = json.loads(json.dumps(document))
            pods(broken)[0]["spec"]["containers"][0]["mistake"] = 1
            with pytest.raises(kubernetes_validate.ValidationError, match="mistake"):
                validate(broken)
        assert file.is_relative_to(DEPLOY)


@pytest.mark.parametrize("file", kustomizations(), ids=name_of)
def test_what_a_kustomization_names_is_there(file: Path) -> None:
    (document,) = documents(file)
    own = {name for maker in document.get("configMapGenerator", ()) for name in maker["files"]}
    own |= {patch["path"] for patch in document.get("patches", ())}
    own |= {name for name in document.get("resources", ()) if not name.startswith("..")}
    assert document.keys() & {"resources", "components", "patches"}
    assert all((file.parent / name).is_file() for name in own), own
    folders = [name for name in document.get("resources", ()) if name.startswith("..")]
    for name in [*folders, *document.get("components", ())]:
        (other,) = documents(file.parent / name / "kustomization.yaml")
        assert other["kind"] == ("Component" if name in document.get("components", ()) else "Kustomization")
    unused = {path.name for path in file.parent.iterdir() if path.is_file()} - own - {file.name}
    assert unused <= {"adapter-rules.yaml"}, "values of a chart; everything else is part of it"


@needs_builder
@pytest.mark.parametrize("folder", whole(), ids=name_of)
def test_what_kustomize_makes_is_valid_and_hangs_together(folder: Path) -> None:
    objects = built(folder)
    assert objects
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    made_by_the_user = {("Secret", name) for name in SECRETS} | CLAIMS
    for one in objects:
        validate(one)
        for template in pods(one):
            for kind, name in referenced(template["spec"]):
                assert (kind, name) in names | made_by_the_user, f"{name} is nowhere"
    labels = [
        template["metadata"]["labels"] for one in objects for template in pods(one) if "metadata" in template
    ]
    for one in objects:
        selector = one.get("spec", {}).get("selector")
        if one["kind"] == "Service":
            selector = {"matchLabels": selector}
        if selector and one["kind"] != "ServiceMonitor":
            wanted = selector["matchLabels"].items()
            assert any(wanted <= have.items() for have in labels), one["kind"]


SECRETS = ("trtllm-openai-keys", "trtllm-openai-metrics-key", "trtllm-openai-ssh")
CLAIMS = {("PersistentVolumeClaim", "trtllm-openai-models")}


def referenced(spec: Document) -> list[tuple[str, str]]:
    """The objects that a pod needs, by kind and name."""
    found = [("ServiceAccount", spec["serviceAccountName"])] if "serviceAccountName" in spec else []
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            found.append(("ConfigMap", volume["configMap"]["name"]))
        elif "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"]))
        elif "persistentVolumeClaim" in volume:
            found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    return found


@pytest.mark.parametrize(
    ("name", "document"), patched(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_server_is_restricted(name: str, document: Document) -> None:
    """As the Pod Security Standard `restricted` asks, and nothing is written beside the volumes."""
    for template in pods(document):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} <= volumes
            writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
            assert writable == {"/tmp", "/home/server", "/dev/shm"}
            assert {"name": "HOME", "value": "/home/server"} in container["env"]
