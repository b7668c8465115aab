# SPDX-License-Identifier: Apache-2.0
"""From a name to a client: which hosts serve it, and with whose account each is asked."""

from collections.abc import Callable

from cri.images import credentials as accounts
from cri.images.authorize import Authorizer
from cri.images.cancel import Cancellation
from cri.images.errors import RegistryError
from cri.images.hosts import Host, hosts_for
from cri.images.model import Credentials
from cri.images.parts import Parts
from cri.images.reference import Reference
from cri.images.registry import Repository
from cri.images.transport import Server


def open_repository(
    parts: Parts,
    reference: Reference,
    credentials: Credentials | None,
    cancel: Cancellation | None,
    notice: Callable[[RegistryError], None] | None,
) -> Repository:
    """A client for one repository, with the account that fits."""
    files = accounts.default_files() if parts.auth_files is None else parts.auth_files
    own = accounts.decode(credentials) if credentials is not None and credentials != Credentials() else None
    if own is None or not accounts.matches(own, reference.host):
        own = accounts.find(reference, files)
    transport = parts.wires.transport()
    known: dict[Server, Authorizer] = {}

    def authorizer(host: Host) -> Authorizer:
        # A mirror is somebody else: the registry's password is not for it, its own entry is.
        found = known.get(host.server)
        if found is None:
            account = own if not host.mirror else accounts.find(_mirror_reference(host), files)
            found = known[host.server] = Authorizer(transport, account)
        return found

    hosts = hosts_for(reference.host, parts.certs_d)
    return Repository(reference, hosts, transport, authorizer, cancel, parts.backoff, notice)


def _mirror_reference(host: Host) -> Reference:
    default = 443 if host.server.scheme == "https" else 80
    name = host.server.host if host.server.port == default else f"{host.server.host}:{host.server.port}"
    return Reference(name, "any")
