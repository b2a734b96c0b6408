"""Certificates and kubeconfigs of a temporary cluster: one authority, new at each start."""

import datetime as dt
import ipaddress
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.cluster.layout import NODES, Layout

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """Issues into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-cluster")])
        self._name = name
        builder = self._builder(name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._write("ca.crt", builder.sign(self._key, hashes.SHA256()))

    def issue(
        self,
        file: str,
        common_name: str,
        *,
        organisation: str = "",
        usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,),
        names: tuple[str, ...] = (),
        ips: tuple[str, ...] = (),
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organisation:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        builder = self._builder(x509.Name(attributes), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        self._write(f"{file}.crt", builder.sign(self._key, hashes.SHA256()))
        write_key(self._folder / f"{file}.key", key)

    def _builder(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=30))
        )

    def _write(self, file: str, certificate: x509.Certificate) -> None:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self._folder / file).write_bytes(pem)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def make_pki(layout: Layout, folder: Path) -> None:
    """Writes all certificates and keys of the components, and kubeconfigs as <name>.conf."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    service = "kubernetes.default.svc"
    authority.issue(
        "apiserver",
        "kube-apiserver",
        usages=(SERVER,),
        names=(
            "kubernetes",
            "kubernetes.default",
            service,
            f"{service}.cluster.local",
            "localhost",
        ),
        ips=("127.0.0.1", layout.bridge, layout.first_service, layout.link_ip),
    )
    authority.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client")
    clients = {
        "admin": ("admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
        "proxy": ("system:kube-proxy", ""),
        "coredns": ("system:coredns", ""),
        "provisioner": ("system:dev-provisioner", ""),
    }
    for file, (name, organisation) in clients.items():
        authority.issue(file, name, organisation=organisation)
        write_kubeconfig(folder / f"{file}.conf", layout.server, folder, file)
    for node in NODES:
        authority.issue(
            node,
            f"system:node:{node}",
            organisation="system:nodes",
            usages=(CLIENT, SERVER),
            names=(node,),
            ips=(layout.node_ip(node),),
        )
        write_kubeconfig(folder / f"{node}.conf", layout.server, folder, node)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_key(folder / "sa.key", key)
    (folder / "sa.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def write_kubeconfig(path: Path, server: str, folder: Path, user: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "clusters": [
            {
                "name": "dev",
                "cluster": {"server": server, "certificate-authority": str(folder / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate": str(folder / f"{user}.crt"),
                    "client-key": str(folder / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
