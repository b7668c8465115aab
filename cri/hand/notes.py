# SPDX-License-Identifier: Apache-2.0
"""What this door remembers about its pods and containers: the names of the annotations it keeps on their requests."""

OWNER = "hand"

KIND = "ketch.hand/kind"  # on a pod: CONTAINER when `run` made it for one container
CONTAINER = "container"
POD = "pod"
COMMAND = "ketch.hand/command"  # on a container: entry point and command as JSON, so `ps` need not read config.json
VOLUMES = "ketch.hand/volumes"  # on a container: names of the volumes it uses, as JSON
ANONYMOUS = "ketch.hand/anonymous-volumes"  # on a container: those that were made for it
AUTO_REMOVE = "ketch.hand/auto-remove"  # on a container: --rm
STOP_SECONDS = "ketch.hand/stop-seconds"  # on a container: --stop-timeout
NETWORK = "ketch.hand/network"  # on a pod: bridge, host, none, or a network's name
HOSTS = "ketch.hand/hosts"  # on a pod: lines of --add-host, as JSON
EXPOSED = "ketch.hand/exposed"  # on a container: ports the image says it listens on, as JSON
INIT = "ketch.hand/init"  # on a container: it is an init container of a pod
