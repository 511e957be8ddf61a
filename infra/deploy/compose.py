"""The whole set on one machine, by docker compose."""

from __future__ import annotations

from infra.deploy.containers import Mapping, flink_config, images, job_server


def compose(versions: Mapping, settings: Mapping) -> Mapping:
    """Docker compose: one task manager with its workers, the job server, Kafka and its topics."""
    image, flink, kafka = images(versions, settings), settings["flink"], settings["kafka"]
    ports, shared = flink["ports"], [f"shared:{settings['deploy']['shared']}"]
    properties = flink_config(settings) | {
        "jobmanager.rpc.address": "job-manager",
        "jobmanager.memory.process.size": flink["job_manager_memory"],
        "taskmanager.memory.process.size": flink["task_manager_memory"],
    }
    environment = {"FLINK_PROPERTIES": "".join(f"{key}: {value}\n" for key, value in properties.items())}
    base = {"image": image["flink"], "environment": environment, "volumes": shared, "restart": "unless-stopped"}
    services: Mapping = {
        "permissions": {
            "image": image["flink"],
            "user": "root",
            "entrypoint": ["chown", "flink:flink", settings["deploy"]["shared"]],
            "volumes": shared,
        },
        "job-manager": base
        | {
            "command": "jobmanager",
            "ports": [_local(ports["page"])],
            "depends_on": {"permissions": {"condition": "service_completed_successfully"}},
            "healthcheck": _health(f"curl -fs localhost:{ports['page']}/overview"),
        },
        "task-manager": base
        | {"command": "taskmanager", "depends_on": {"job-manager": {"condition": "service_healthy"}}},
        "worker-pool": {
            "image": image["worker"],
            "build": {"context": "../..", "dockerfile": "infra/deploy/Dockerfile"},
            "command": ["--worker_pool"],
            # Worker and task manager speak to each other at localhost.
            "network_mode": "service:task-manager",
            "volumes": shared,
            "restart": "unless-stopped",
        },
        "job-server": {
            "image": image["job-server"],
            "command": job_server(settings, f"job-manager:{ports['page']}"),
            "ports": [_local(ports["job"]), _local(ports["artifact"])],
            "volumes": shared,
            "depends_on": {"job-manager": {"condition": "service_healthy"}},
            "restart": "unless-stopped",
        },
        "kafka": {
            "image": image["kafka"],
            "environment": _kafka_environment(kafka),
            "volumes": ["kafka:/var/lib/kafka/data"],
            "ports": [_local(kafka["port"] + 10)],
            "healthcheck": _health(f"/opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:{kafka['port']} --list"),
            "restart": "unless-stopped",
        },
        "topics": {
            "image": image["kafka"],
            "entrypoint": ["bash", "-ec", _topics(kafka)],
            "depends_on": {"kafka": {"condition": "service_healthy"}},
        },
    }
    return {"name": settings["deploy"]["namespace"], "services": services, "volumes": {"shared": {}, "kafka": {}}}


def _kafka_environment(kafka: Mapping) -> dict[str, str]:
    """One node that other containers reach as kafka:9092 and this machine as localhost:9102."""
    port, outside = kafka["port"], kafka["port"] + 10
    listeners = f"PLAINTEXT://:{port},CONTROLLER://:{port + 1},OUTSIDE://:{outside}"
    common = {"KAFKA_" + key.replace(".", "_").upper(): value for key, value in kafka["config"].items()}
    return common | {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@localhost:{port + 1}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": listeners,
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://kafka:{port},OUTSIDE://localhost:{outside}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OUTSIDE:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    }


def _topics(kafka: Mapping) -> str:
    """The commands that create what topics are missing."""
    create = f"/opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:{kafka['port']} --create --if-not-exists"
    return "".join(f"{create} --topic {name} --partitions {n}\n" for name, n in kafka["topics"].items())


def _health(command: str) -> Mapping:
    return {"test": ["CMD-SHELL", command], "interval": "5s", "timeout": "10s", "retries": 24}


def _local(port: int) -> str:
    """Published on this machine's loopback interface only: nothing here asks for a password."""
    return f"127.0.0.1:{port}:{port}"
