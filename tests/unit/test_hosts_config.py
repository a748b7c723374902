"""config/kubernetes and config/systemd fit the schemas, the settings and the commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from chaos import keda
from pooltasks import acl, keys
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings

CONFIG = Path(__file__).parents[2] / "config"
KUBERNETES = "1.33"
_OWN = ("keda.sh/", "monitoring.coreos.com/", "kustomize.config.k8s.io/")
"""Of the operators of others: no schema of Kubernetes' own."""
KUSTOMIZATION = yaml.safe_load((CONFIG / "kustomization.yaml").read_text("utf-8"))
DOCUMENTS: list[dict[str, Any]] = [
    document
    for resource in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((CONFIG / resource).read_text("utf-8"))
]
POOLS = {
    name: PoolSettings(**its)
    for name, its in tomllib.loads((CONFIG / "pools.toml").read_text("utf-8"))["pools"].items()
}


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {its["metadata"]["name"]: its["spec"] for its in DOCUMENTS if its["kind"] == kind}


def container(deployment: str) -> dict[str, Any]:
    (its,) = of_kind("Deployment")[deployment]["template"]["spec"]["containers"]
    return its


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda its: f"{its['kind']}-{its['metadata']['name']}"
)
def test_a_manifest_fits_the_schema_of_kubernetes(document):
    if document["apiVersion"].startswith(_OWN):
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "pooltasks"
        assert document["spec"]
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schemas_refuse_what_is_wrong():
    broken = {**DOCUMENTS[0], "spec": {**DOCUMENTS[0]["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_every_manifest_is_in_the_kustomization():
    files = {f"kubernetes/{path.name}" for path in (CONFIG / "kubernetes").glob("*.yaml")}
    assert set(KUSTOMIZATION["resources"]) == files


def test_kustomize_renders_the_folder():
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on PATH")
    rendered = subprocess.run(
        [kubectl, "kustomize", CONFIG], capture_output=True, text=True, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    assert len([*yaml.safe_load_all(rendered.stdout)]) == len(DOCUMENTS) + 1  # the settings


@pytest.mark.parametrize("pool", [*POOLS, "control"])
def test_each_pool_has_a_deployment_that_has_time_to_drain(pool):
    spec = of_kind("Deployment")[f"pool-{pool}"]["template"]["spec"]
    settings = POOLS.get(pool, PoolSettings())
    assert spec["terminationGracePeriodSeconds"] > settings.operation_timeout
    arguments = container(f"pool-{pool}")["args"]
    assert arguments[arguments.index("-Q") + 1] == keys.queue(pool)
    probe = container(f"pool-{pool}")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > settings.init_timeout


@pytest.mark.parametrize("pool", POOLS)
def test_each_pool_of_users_is_scaled_by_the_list_of_its_optimizer(pool):
    spec = of_kind("ScaledObject")[f"pool-{pool}"]
    assert spec["scaleTargetRef"]["name"] in of_kind("Deployment")
    assert "replicas" not in of_kind("Deployment")[f"pool-{pool}"]  # KEDA's
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "redis"
    assert trigger["metadata"]["listName"] == keys.hosts_wanted(pool)
    assert trigger["metadata"]["listLength"] == "1"
    assert trigger["authenticationRef"]["name"] in of_kind("TriggerAuthentication")
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    selector = of_kind("PodDisruptionBudget")[f"pool-{pool}"]["selector"]["matchLabels"]
    labels = of_kind("Deployment")[f"pool-{pool}"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()


def test_the_loop_that_is_played_is_that_of_the_manifests():
    spec = of_kind("ScaledObject")["pool-code"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (policy,) = behavior["scaleDown"]["policies"]
    assert spec["maxReplicaCount"] == keda.MOST
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == keda.WINDOW
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert policy == {"type": "Percent", "value": 100 * keda.SHARE, "periodSeconds": keda.PERIOD}
    pod = of_kind("Deployment")["pool-code"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == keda.GRACE
    # SIGTERM is all that a node is told.
    assert "lifecycle" not in container("pool-code")


def test_the_probes_of_nodes_ask_nobody():
    for pool in [*POOLS, "control"]:
        its = container(f"pool-{pool}")
        environment = {each["name"]: each.get("value") for each in its["env"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            command = " ".join(its[probe]["exec"]["command"])
            assert environment["POOLTASKS_HEALTH_FILE"] in command
            assert not re.search("python|celery|pooltasks (status|check|inspect)", command)


def test_every_variable_of_ours_is_a_setting():
    for deployment in of_kind("Deployment"):
        for each in container(deployment)["env"]:
            if each["name"].startswith("POOLTASKS_"):
                assert each["name"].removeprefix("POOLTASKS_").lower() in Settings.model_fields


def test_no_secret_stands_in_the_manifests():
    for deployment in of_kind("Deployment"):
        for each in container(deployment)["env"]:
            if re.search("URL|PASSWORD|USER", each["name"]):
                assert "valueFrom" in each
    assert "Secret" not in {document["kind"] for document in DOCUMENTS}


def test_no_container_can_become_root():
    for name, spec in of_kind("Deployment").items():
        assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"], name
        its = container(name)["securityContext"]
        assert not its["allowPrivilegeEscalation"]
        assert its["readOnlyRootFilesystem"]
        assert its["capabilities"] == {"drop": ["ALL"]}


def test_prometheus_and_the_policies_find_what_they_are_for():
    (service,) = of_kind("Service").values()
    (monitor,) = of_kind("ServiceMonitor").values()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["ports"]]
    (of_service,) = [its["metadata"]["labels"] for its in DOCUMENTS if its["kind"] == "Service"]
    assert monitor["selector"]["matchLabels"].items() <= of_service.items()
    assert "--metrics-login" in container("dashboard")["args"]
    assert endpoint["basicAuth"]
    components = {
        spec["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for spec in of_kind("Deployment").values()
    }
    assert components == {"node", "beat", "dashboard"}
    nodes, dashboard = (of_kind("NetworkPolicy")[name] for name in ("nodes", "dashboard"))
    (expression,) = nodes["podSelector"]["matchExpressions"]
    assert {*expression["values"], "dashboard"} == components
    assert nodes["ingress"] == []
    assert dashboard["ingress"][0]["ports"][0]["port"] == service["ports"][0]["port"]


def test_the_unit_of_systemd_has_time_to_drain_and_systemd_takes_it(tmp_path):
    text = (CONFIG / "systemd" / "pooltasks@.service").read_text("utf-8")
    stop = int(re.search(r"TimeoutStopSec=(\d+)", text)[1])
    assert all(stop > pool.operation_timeout for pool in POOLS.values())
    for variable in re.findall(r"POOLTASKS_(\w+)=", text):
        assert variable.lower() in Settings.model_fields
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on PATH (Debian: apt-get install systemd)")
    # What it runs is on no machine but the deployment's.
    unit = tmp_path / "pooltasks@code.service"
    unit.write_text(re.sub(r"/srv/pooltasks/\.venv/bin/celery", "/bin/true", text))
    verified = subprocess.run(
        [program, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_users_of_config_are_what_the_command_prints():
    lines = (CONFIG / "acl" / "users.acl").read_text("utf-8").splitlines()
    assert lines == ["user default reset", *acl.lines()]
