# SPDX-License-Identifier: Apache-2.0
"""Throw-away certificates, keys, tokens and kubeconfigs of one cluster, made with openssl."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
_DAYS = ("-days", "3650")


def _openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)


@dataclass(frozen=True, slots=True)
class Pki:
    """The folder with ca, api, front-proxy and service-account files, and the tokens by user."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def token(self, user: str) -> str:
        """The bearer token of a user, as the API server's token file has it."""
        for line in (self.folder / "tokens.csv").read_text().splitlines():
            token, name, *_ = line.split(",")
            if name == user:
                return token
        raise KeyError(user)

    def kubeconfig(self, server: str, user: str) -> Path:
        """A kubeconfig (JSON is YAML) with which this user reaches the server."""
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        cluster = {"server": server, "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ketch", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "ketch", "context": {"cluster": "ketch", "user": user}}],
            "current-context": "ketch",
        }
        path.write_text(json.dumps(content, indent=1))
        path.chmod(0o600)
        return path


def create(folder: Path, addresses: Iterable[str], nodes: Iterable[str]) -> Pki:
    """Everything new, in folder: the API server is known by these addresses, each node has a token of its own."""
    folder.mkdir(mode=0o700)
    authority = ("-x509", *_CURVE, *_DAYS, "-subj", "/CN=ketch-rig")
    _openssl("req", *authority, "-keyout", "ca.key", "-out", "ca.crt", folder=folder)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    alternatives = ",".join([*(f"IP:{each}" for each in addresses), *(f"DNS:{name}" for name in names)])
    _signed("api", "/CN=kube-apiserver", folder, f"subjectAltName={alternatives}")
    _signed("front-proxy", "/O=system:masters/CN=front-proxy", folder)
    _openssl("genrsa", "-out", "service-account.key", "2048", folder=folder)
    users = [("admin", "system:masters"), *((f"system:node:{node}", "system:nodes") for node in nodes)]
    lines = (f'{secrets.token_hex(16)},{user},{user},"{group}"\n' for user, group in users)
    (folder / "tokens.csv").write_text("".join(lines))
    return Pki(folder)


def _signed(name: str, subject: str, folder: Path, extension: str = "") -> None:
    _openssl("req", *_CURVE, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr", folder=folder)
    (folder / f"{name}.ext").write_text(extension)
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", *_DAYS, "-extfile", f"{name}.ext")
    _openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signing, folder=folder)
