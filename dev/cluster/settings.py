"""Command lines and configuration files of the components. Pure: layout in, text out."""

import json
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.images import PAUSE
from dev.cluster.layout import BIN, STATE, Layout

PROVISIONER = "dev.logstore.dev/loop"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata"},
    ],
}

RBAC: list[dict[str, Any]] = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "dev:apiserver-to-kubelet"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:kubelet-api-admin",
        },
        "subjects": [
            {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "User",
                "name": "kube-apiserver-kubelet-client",
            }
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "dev:coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["services", "pods", "namespaces", "endpoints"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            },
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "dev:coredns"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "dev:coredns",
        },
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "dev:provisioner"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:persistent-volume-provisioner",
        },
        "subjects": [
            {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "User",
                "name": "system:dev-provisioner",
            }
        ],
    },
    {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "loop",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": False,
    },
]


def etcd(data: Path, client: int = 2379, peer: int = 2380) -> list[str]:
    """Without fsync, because the cluster is temporary."""
    url = f"http://127.0.0.1:{client}"
    peer_url = f"http://127.0.0.1:{peer}"
    return [
        str(BIN / "kubernetes"),
        "etcd",
        "--data-dir",
        str(data),
        "--unsafe-no-fsync",
        "--listen-client-urls",
        url,
        "--advertise-client-urls",
        url,
        "--listen-peer-urls",
        peer_url,
        "--initial-advertise-peer-urls",
        peer_url,
        "--initial-cluster",
        f"default={peer_url}",
        "--log-level",
        "warn",
    ]


def apiserver(layout: Layout) -> list[str]:
    pki = layout.pki
    return [
        str(BIN / "kubernetes"),
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={layout.bridge}",
        f"--service-cluster-ip-range={layout.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--default-not-ready-toleration-seconds=15",
        "--default-unreachable-toleration-seconds=15",
        f"--audit-policy-file={STATE / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.logs / 'audit.log'}",
        "--audit-log-maxsize=200",
        "--audit-log-maxbackup=2",
    ]


def controller_manager(layout: Layout) -> list[str]:
    pki = layout.pki
    return [
        str(BIN / "kubernetes"),
        "kube-controller-manager",
        f"--kubeconfig={pki / 'controller-manager.conf'}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        # With the default of 20 a start takes 6 s longer, because nodes keep their taints longer.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        "--node-monitor-period=1s",
        "--node-monitor-grace-period=10s",
        f"--flex-volume-plugin-dir={STATE / 'flex'}",
    ]


def scheduler(layout: Layout) -> list[str]:
    return [
        str(BIN / "kubernetes"),
        "kube-scheduler",
        f"--kubeconfig={layout.pki / 'scheduler.conf'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]


def proxy_config(layout: Layout) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(layout.pki / "proxy.conf")},
            "mode": "iptables",
            "clusterCIDR": layout.pods,
            "hostnameOverride": "n1",
            "bindAddress": layout.node_ip("n1"),
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "nodePortAddresses": ["primary"],
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"syncPeriod": "30s", "minSyncPeriod": "0s"},
        }
    )


def corefile(layout: Layout) -> str:
    return f"""\
cluster.local:53 in-addr.arpa:53 {{
    bind {layout.bridge}
    errors
    health 127.0.0.1:8080
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.pki / "coredns.conf"}
        pods insecure
        ttl 5
    }}
}}
.:53 {{
    bind {layout.bridge}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def cni_config(layout: Layout, node: str) -> str:
    first, last = layout.pod_range(node)
    bridge = {
        "type": "bridge",
        "bridge": "br0",
        "isGateway": False,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.node_dir(node) / "cni" / "networks"),
            "ranges": [
                [
                    {
                        "subnet": layout.pods,
                        "rangeStart": first,
                        "rangeEnd": last,
                        "gateway": layout.bridge,
                    }
                ]
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "br", "plugins": [bridge]})


def containerd_config(root: Path, cni: Path) -> str:
    disabled = [
        f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "zfs", "aufs", "devmapper")
    ]
    # The opt plugin would create /opt/containerd on the host.
    disabled += ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "/run/containerd/containerd.sock"
[{cri}]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
  [{cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"""


def kubelet_config(layout: Layout, node: str) -> str:
    folder, pki, ip = layout.node_dir(node), layout.pki, layout.node_ip(node)
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ip,
            "port": 10250,
            "healthzBindAddress": ip,
            "healthzPort": 10248,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{node}.crt"),
            "tlsPrivateKeyFile": str(pki / f"{node}.key"),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{layout.name}/{node}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": True,
            "clusterDNS": [layout.bridge],
            "clusterDomain": "cluster.local",
            "resolvConf": str(folder / "etc" / "resolv.conf"),
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "podLogsDir": str(folder / "pods"),
            "volumePluginDir": str(folder / "kubelet" / "volumeplugins"),
            "maxPods": 60,
            # By default a container that a test kills repeatedly restarts after 10 s, 20 s, ….
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        }
    )


def kubelet(layout: Layout, node: str) -> list[str]:
    folder = layout.node_dir(node)
    return [
        str(BIN / "kubernetes"),
        "kubelet",
        f"--config={folder / 'etc' / 'kubelet.yaml'}",
        f"--kubeconfig={layout.pki / f'{node}.conf'}",
        f"--hostname-override={node}",
        f"--node-ip={layout.node_ip(node)}",
        f"--root-dir={folder / 'kubelet'}",
        f"--cert-dir={folder / 'kubelet' / 'pki'}",
        "--v=1",
    ]
