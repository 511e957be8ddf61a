"""Flink on Kubernetes, by its operator."""

from __future__ import annotations

from infra.deploy.containers import Mapping, flink_config, images, job_server


def kubernetes(versions: Mapping, settings: Mapping) -> list[Mapping]:
    """Kubernetes: a Flink session cluster by the operator, workers beside each task manager, the job server."""
    image, flink, deploy = images(versions, settings), settings["flink"], settings["deploy"]
    namespace, ports = deploy["namespace"], flink["ports"]
    volume = {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}
    mount = [{"name": "shared", "mountPath": deploy["shared"]}]
    config = flink_config(settings) | {
        "high-availability.type": "kubernetes",
        "high-availability.storageDir": f"file://{deploy['shared']}/ha",
    }
    workers = {
        "name": "worker-pool",
        "image": image["worker"],
        "args": ["--worker_pool"],
        "ports": [{"name": "pool", "containerPort": ports["pool"]}],
        "resources": {"limits": {"memory": _kubernetes_memory(deploy["worker_memory"])}},
        "volumeMounts": mount,
    }
    main = {"name": "flink-main-container", "volumeMounts": mount}

    def named(name: str) -> Mapping:
        return {"name": name, "namespace": namespace}

    cluster = {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": named("wattier"),
        "spec": {
            "image": image["flink"],
            "flinkVersion": "v" + versions["flink"]["series"].replace(".", "_"),
            "mode": "standalone",
            "serviceAccount": "flink",
            "flinkConfiguration": config,
            "podTemplate": _template([main], volume),
            "jobManager": {"resource": {"memory": flink["job_manager_memory"], "cpu": 1}},
            "taskManager": {
                "replicas": deploy["task_managers"],
                "resource": {"memory": flink["task_manager_memory"], "cpu": deploy["task_manager_cpu"]},
                "podTemplate": _template([main, workers], volume),
            },
        },
    }
    server = {
        "name": "job-server",
        "image": image["job-server"],
        "args": job_server(settings, f"wattier-rest:{ports['page']}"),
        "ports": [{"name": name, "containerPort": ports[name]} for name in ("job", "artifact")],
        "volumeMounts": mount,
    }
    labels = {"app": "wattier-job-server"}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": deploy["storage"]}}}
    exposed = [{"name": name, "port": ports[name]} for name in ("job", "artifact")]
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [server], "volumes": [volume]}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": named("shared"), "spec": claim},
        cluster,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": named("job-server"),
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named("job-server"),
            "spec": {"selector": labels, "ports": exposed},
        },
    ]


def _template(containers: list[Mapping], volume: Mapping) -> Mapping:
    # fsGroup: Flink's image runs as user 9999, and the volume is made by root.
    return {"spec": {"securityContext": {"fsGroup": 9999}, "containers": containers, "volumes": [volume]}}


def _kubernetes_memory(size: str) -> str:
    return size.removesuffix("m") + "Mi"
