"""Provisions volumes for the default storage class, and for others of its provisioner. Each is an
ext4 file system of the requested size in its own file, mounted on its node, so that a volume really
can become full.

It polls: a volume appears within a second, which is fast enough.
"""

import logging
import os
import re
import subprocess
import time
from pathlib import Path

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity

from dev.cluster.layout import STATE, Layout
from dev.cluster.settings import PROVISIONER

logger = logging.getLogger("provisioner")
VOLUMES = STATE / "volumes"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
CHOSEN = "volume.kubernetes.io/storage-provisioner"
"""What Kubernetes writes on a claim: the provisioner of its class."""
POLL_S = 0.5


def provision(api: client.CoreV1Api, claim: client.V1PersistentVolumeClaim, node: str) -> None:
    """Creates the volume for a claim whose pod was scheduled to `node`."""
    name = f"pvc-{claim.metadata.uid}"
    size = int(parse_quantity(claim.spec.resources.requests["storage"]))
    folder = VOLUMES / name
    image = VOLUMES / f"{name}.img"
    if not os.path.ismount(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    reference = {"namespace": claim.metadata.namespace, "name": claim.metadata.name}
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "accessModes": claim.spec.access_modes,
            "capacity": {"storage": str(size)},
            "claimRef": reference | {"uid": claim.metadata.uid, "kind": "PersistentVolumeClaim"},
            "local": {"path": str(folder)},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim.spec.storage_class_name,
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "kubernetes.io/hostname",
                                    "operator": "In",
                                    "values": [node],
                                }
                            ]
                        }
                    ]
                }
            },
        },
    }
    try:
        api.create_persistent_volume(body)
        logger.info("made %s on %s for %s", name, node, reference)
    except ApiException as error:
        if error.status != 409:
            raise


def delete(api: client.CoreV1Api, volume: client.V1PersistentVolume) -> None:
    """Removes a released volume and its file."""
    name = volume.metadata.name
    if not re.fullmatch(r"pvc-[0-9a-f-]+", name):
        return
    folder = Path(volume.spec.local.path)
    if folder.parent != VOLUMES:
        return
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)
    folder.rmdir()
    folder.with_suffix(".img").unlink(missing_ok=True)
    api.delete_persistent_volume(name)
    logger.info("removed %s", name)


def once(api: client.CoreV1Api) -> None:
    for claim in api.list_persistent_volume_claim_for_all_namespaces().items:
        marks = claim.metadata.annotations or {}
        node, ours = marks.get(SELECTED_NODE), marks.get(CHOSEN) == PROVISIONER
        if claim.status.phase == "Pending" and node and ours:
            provision(api, claim, node)
    for volume in api.list_persistent_volume().items:
        annotations = volume.metadata.annotations or {}
        if (
            volume.status.phase in ("Released", "Failed")
            and volume.spec.persistent_volume_reclaim_policy == "Delete"
            and annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        ):
            delete(api, volume)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    layout = Layout.load()
    if layout is None:
        raise SystemExit("provisioner: no cluster runs in this checkout")
    config.load_kube_config(str(layout.pki / "provisioner.conf"))
    api = client.CoreV1Api()
    VOLUMES.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            once(api)
        except (ApiException, subprocess.CalledProcessError, OSError) as error:
            logger.warning("retrying: %s", error)
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
