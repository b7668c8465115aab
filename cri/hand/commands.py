# SPDX-License-Identifier: Apache-2.0
"""Every command of `ketch` with its options: the one definition behind parser, help, completion and man pages."""

from __future__ import annotations

from cri.hand.grammar import Command, Option

FORMAT = Option("--format", "json, or a template such as '{{.Names}}'", value="FORM")
QUIET = Option("-q --quiet", "print ids only")
NO_TRUNC = Option("--no-trunc", "do not shorten anything")
FILTER = Option("-f --filter", "show only what matches, e.g. name=web or status=exited", value="KEY=VALUE", many=True)
FORCE = Option("-f --force", "do it even when it is in use")
INTERACTIVE = Option("-i --interactive", "keep stdin open")
TTY = Option("-t --tty", "give it a terminal")
USER = Option("-u --user", "user and group, by name or number", value="USER[:GROUP]")
WORKDIR = Option("-w --workdir", "working directory inside", value="DIR")
ENV = Option("-e --env", "set a variable; without =VALUE take it from here", value="NAME[=VALUE]", many=True)
ENV_FILE = Option("--env-file", "read variables from a file", value="FILE", many=True)
PRIVILEGED = Option("--privileged", "all capabilities, all devices, no confinement")
TIME = Option("-t --time", "seconds to wait before it is killed", value="SECONDS", default="10")

MAKE = (
    INTERACTIVE,
    TTY,
    Option("--name", "the container's name", value="NAME"),
    ENV,
    ENV_FILE,
    Option("-v --volume", "mount a volume or a path of this machine", value="SOURCE:PATH[:ro]", many=True),
    Option(
        "--mount", "mount, spelled out: type=bind|volume|tmpfs,source=,target=[,readonly]", value="MOUNT", many=True
    ),
    Option("--tmpfs", "mount an empty file system in memory", value="PATH[:OPTIONS]", many=True),
    Option("-p --publish", "publish a port on this machine", value="[[IP:]PORT:]PORT[/PROTO]", many=True),
    Option("--network", "bridge, host, none, container:NAME, or a network's name", value="NETWORK", complete="network"),
    Option("--ip", "an address of the network for it", value="ADDRESS"),
    Option("--dns", "a name server", value="ADDRESS", many=True),
    Option("--dns-search", "a domain to search names in", value="DOMAIN", many=True),
    Option("--dns-option", "a line for options in resolv.conf", value="OPTION", many=True),
    Option("--add-host", "a line for /etc/hosts", value="NAME:ADDRESS", many=True),
    Option("-h --hostname", "its host name; default: its id", value="NAME"),
    USER,
    WORKDIR,
    Option("--entrypoint", "replace the image's entry point", value="COMMAND"),
    Option("-m --memory", "memory limit: 512m, 2g", value="BYTES"),
    Option("--memory-swap", "memory and swap together; -1: as much swap as there is", value="BYTES"),
    Option("--cpus", "how many processors' worth of time: 1.5", value="NUMBER"),
    Option("-c --cpu-shares", "share of processor time against others", value="SHARES"),
    Option("--cpuset-cpus", "run on these processors only: 0-2,4", value="LIST"),
    Option("--pids-limit", "how many processes at once", value="COUNT"),
    Option("--blkio-weight", "share of disk time, 10 to 1000", value="WEIGHT"),
    Option("--device-read-bps", "limit reading: /dev/sda:1mb", value="DEVICE:RATE", many=True),
    Option("--device-write-bps", "limit writing: /dev/sda:1mb", value="DEVICE:RATE", many=True),
    Option("--device-read-iops", "limit reads per second: /dev/sda:1000", value="DEVICE:COUNT", many=True),
    Option("--device-write-iops", "limit writes per second: /dev/sda:1000", value="DEVICE:COUNT", many=True),
    Option("--shm-size", "size of /dev/shm: 64m", value="BYTES"),
    Option("--oom-score-adj", "how early it is killed when memory runs out", value="NUMBER"),
    Option("--cap-add", "give a capability: NET_ADMIN, ALL", value="CAPABILITY", many=True),
    Option("--cap-drop", "take a capability: NET_RAW, ALL", value="CAPABILITY", many=True),
    PRIVILEGED,
    Option("--read-only", "the image's files cannot be changed"),
    Option("--security-opt", "no-new-privileges, seccomp=FILE|unconfined, apparmor=NAME", value="OPTION", many=True),
    Option("--group-add", "one more group", value="GROUP", many=True),
    Option("--device", "give a device of this machine", value="DEVICE[:PATH[:rwm]]", many=True),
    Option("--init", "run a small init as process 1, which forwards signals and reaps"),
    Option("--pid", "host, or container:NAME: whose processes it sees", value="MODE"),
    Option("--ipc", "host, private, or container:NAME", value="MODE"),
    Option("--userns", "host, or private: root inside is nobody outside", value="MODE"),
    Option("--stop-signal", "what stop sends", value="SIGNAL"),
    Option("--stop-timeout", "seconds before stop kills", value="SECONDS"),
    Option("--ulimit", "a resource limit: nofile=1024:2048", value="NAME=SOFT[:HARD]", many=True),
    Option("--sysctl", "a kernel setting of its own namespaces", value="NAME=VALUE", many=True),
    Option("-l --label", "a label", value="NAME=VALUE", many=True),
    Option("--pull", "always, missing or never", value="WHEN", default="missing"),
    Option("--platform", "which platform's image: linux/arm64", value="PLATFORM"),
    Option("--runtime", "another OCI runtime of the configuration", value="NAME"),
    Option("--cgroup-parent", "where its cgroup goes", value="PATH"),
    Option("--cidfile", "write the id to a file", value="FILE"),
    Option(
        "--restart", "no; other policies need a process that keeps them and are refused", value="POLICY", default="no"
    ),
    Option("--rm", "remove it when it ends"),
)

CONTAINERS = (
    Command(
        "run",
        "Make a container of an image and start it",
        does="cri.hand.run:run",
        arguments="IMAGE [COMMAND [ARG...]]",
        options=(
            *MAKE,
            Option("-d --detach", "leave it running in the background and print its id"),
            Option(
                "--detach-keys", "the keys that leave it running: ctrl-p,ctrl-q", value="KEYS", default="ctrl-p,ctrl-q"
            ),
            Option("--sig-proxy", "pass signals on to it (default true)"),
        ),
        rest=1,
        complete="image",
        detail="The exit code is the container's; 125 when Ketch could not make it, 126 when the command cannot be "
        "executed, 127 when there is no such command.",
        examples=(
            ("ketch run --rm -it ubuntu:22.04 bash", "a shell that leaves nothing behind"),
            ("ketch run -d --name web -p 8080:80 nginx", "a web server, reachable on port 8080 of this machine"),
            ("ketch run --mount source=data,target=/app alpine", "with a volume that outlives it"),
        ),
    ),
    Command(
        "create",
        "Make a container without starting it",
        does="cri.hand.run:create",
        arguments="IMAGE [COMMAND [ARG...]]",
        options=MAKE,
        rest=1,
        complete="image",
    ),
    Command(
        "start",
        "Start containers that were made or have ended",
        does="cri.hand.run:start",
        arguments="CONTAINER...",
        options=(
            Option("-a --attach", "show what it prints and wait for its end"),
            Option("-i --interactive", "give it our stdin"),
            Option("--detach-keys", "the keys that leave it running", value="KEYS", default="ctrl-p,ctrl-q"),
        ),
        complete="container",
    ),
    Command(
        "stop",
        "Stop containers: their stop signal, then SIGKILL",
        does="cri.hand.lifecycle:stop",
        arguments="CONTAINER...",
        options=(TIME,),
        complete="running",
    ),
    Command(
        "restart",
        "Stop containers and start them again",
        does="cri.hand.lifecycle:restart",
        arguments="CONTAINER...",
        options=(TIME,),
        complete="container",
    ),
    Command(
        "kill",
        "Send containers a signal",
        does="cri.hand.lifecycle:kill",
        arguments="CONTAINER...",
        options=(Option("-s --signal", "which one", value="SIGNAL", default="KILL"),),
        complete="running",
    ),
    Command(
        "rm",
        "Remove containers",
        does="cri.hand.lifecycle:remove",
        arguments="[CONTAINER...]",
        options=(
            Option("-f --force", "kill those that run"),
            Option("-v --volumes", "remove their anonymous volumes as well"),
            Option("-a --all", "all of them"),
        ),
        complete="container",
    ),
    Command(
        "pause", "Freeze containers", does="cri.hand.lifecycle:pause", arguments="CONTAINER...", complete="running"
    ),
    Command(
        "unpause", "Thaw containers", does="cri.hand.lifecycle:unpause", arguments="CONTAINER...", complete="running"
    ),
    Command(
        "wait",
        "Wait for containers to end and print their exit codes",
        does="cri.hand.lifecycle:wait",
        arguments="CONTAINER...",
        complete="container",
    ),
    Command(
        "exec",
        "Run a command in a running container",
        does="cri.hand.inside:exec_",
        arguments="CONTAINER COMMAND [ARG...]",
        options=(
            INTERACTIVE,
            TTY,
            Option("-d --detach", "do not wait for it"),
            ENV,
            USER,
            WORKDIR,
            PRIVILEGED,
            Option("--detach-keys", "the keys that leave it running", value="KEYS", default="ctrl-p,ctrl-q"),
        ),
        rest=1,
        complete="running",
        examples=(("ketch exec -it web sh", "a shell in the container web"),),
    ),
    Command(
        "attach",
        "Join a running container's terminal or output",
        does="cri.hand.inside:attach",
        arguments="CONTAINER",
        options=(
            Option("--no-stdin", "do not pass our stdin on"),
            Option("--detach-keys", "the keys that leave it running", value="KEYS", default="ctrl-p,ctrl-q"),
        ),
        complete="running",
    ),
    Command(
        "logs",
        "Print what a container has printed",
        does="cri.hand.logs:logs",
        arguments="CONTAINER",
        options=(
            Option("-f --follow", "go on with what it prints from now on"),
            Option("-n --tail", "only the last lines", value="COUNT", default="all"),
            Option("--since", "only lines from this time on: 10m, 2026-01-31T12:00:00Z", value="TIME"),
            Option("--until", "only lines before this time", value="TIME"),
            Option("-t --timestamps", "with the time of each line"),
        ),
        complete="container",
    ),
    Command(
        "cp",
        "Copy files between a container and this machine",
        does="cri.hand.copy:copy",
        arguments="SOURCE TARGET",
        options=(Option("-a --archive", "keep owners"),),
        detail="One of the two is CONTAINER:PATH; - is a tar stream.",
    ),
    Command(
        "ps",
        "List containers",
        does="cri.hand.show:ps",
        options=(
            Option("-a --all", "those that have ended too"),
            Option("--all-owners", "the kubelet's too"),
            Option("-n --last", "the last ones that were made", value="COUNT"),
            Option("-l --latest", "the last one that was made"),
            Option("-s --size", "how much each has written"),
            QUIET,
            NO_TRUNC,
            FILTER,
            FORMAT,
        ),
    ),
    Command(
        "inspect",
        "Print all that is known of containers, images, volumes or networks",
        does="cri.hand.show:inspect",
        arguments="NAME...",
        options=(Option("-f --format", "json, or a template", value="FORM"),),
        complete="container",
    ),
    Command(
        "top",
        "List the processes of a container",
        does="cri.hand.show:top",
        arguments="CONTAINER [PS-OPTION...]",
        rest=1,
        complete="running",
    ),
    Command(
        "stats",
        "Show what containers use",
        does="cri.hand.usage:stats",
        arguments="[CONTAINER...]",
        options=(
            Option("-a --all", "those that have ended too"),
            Option("--no-stream", "once, not again and again"),
            NO_TRUNC,
            FORMAT,
        ),
        complete="running",
    ),
    Command(
        "port",
        "List a container's published ports",
        does="cri.hand.show:port",
        arguments="CONTAINER [PORT[/PROTO]]",
        complete="container",
    ),
    Command(
        "events",
        "Print what happens to containers, as it happens",
        does="cri.hand.happenings:events",
        options=(FILTER, FORMAT),
    ),
    Command("rename", "Give a container another name", does="cri.hand.lifecycle:rename", arguments="CONTAINER NAME"),
)

IMAGES = (
    Command(
        "pull",
        "Fetch an image from a registry",
        does="cri.hand.images:pull",
        arguments="IMAGE",
        options=(Option("--platform", "which platform's: linux/arm64", value="PLATFORM"), QUIET),
    ),
    Command("push", "Send an image to a registry", does="cri.hand.images:push", arguments="IMAGE", options=(QUIET,)),
    Command(
        "images",
        "List images",
        does="cri.hand.images:images",
        arguments="[NAME]",
        options=(Option("-a --all", "the nameless too"), Option("--digests", "with digests"), QUIET, NO_TRUNC, FORMAT),
    ),
    Command(
        "rmi",
        "Remove images",
        does="cri.hand.images:remove",
        arguments="IMAGE...",
        options=(Option("-f --force", "even if a container stands on it"),),
        complete="image",
    ),
    Command("tag", "Give an image another name", does="cri.hand.images:tag", arguments="IMAGE NAME", complete="image"),
    Command(
        "history",
        "List the steps an image was made in",
        does="cri.hand.images:history",
        arguments="IMAGE",
        options=(QUIET, NO_TRUNC, FORMAT),
        complete="image",
    ),
    Command(
        "save",
        "Write images to a tar archive",
        does="cri.hand.images:save",
        arguments="IMAGE...",
        options=(Option("-o --output", "the file; default: stdout", value="FILE"),),
        complete="image",
    ),
    Command(
        "load",
        "Read images from a tar archive",
        does="cri.hand.images:load",
        options=(Option("-i --input", "the file; default: stdin", value="FILE"), QUIET),
    ),
    Command(
        "import",
        "Make an image of a tar archive of files, or of a folder",
        does="cri.hand.images:import_",
        arguments="FILE [NAME]",
        options=(Option("-c --change", "set CMD, ENTRYPOINT, ENV, USER or WORKDIR", value="INSTRUCTION", many=True),),
    ),
    Command(
        "login",
        "Keep credentials for a registry",
        does="cri.hand.login:login",
        arguments="[REGISTRY]",
        options=(
            Option("-u --username", "the account", value="NAME"),
            Option("-p --password", "its password; better: --password-stdin", value="PASSWORD"),
            Option("--password-stdin", "read the password from stdin"),
        ),
    ),
    Command("logout", "Forget a registry's credentials", does="cri.hand.login:logout", arguments="[REGISTRY]"),
    Command(
        "image local",
        "Make an image of this machine's busybox, without a network",
        does="cri.hand.images:local",
        arguments="[NAME]",
    ),
    Command(
        "image prune",
        "Remove images that no container stands on",
        does="cri.hand.images:prune",
        options=(Option("-a --all", "those with names too"), Option("-f --force", "do not ask")),
    ),
)

VOLUMES = (
    Command(
        "volume create",
        "Make a volume",
        does="cri.hand.volumes:create",
        arguments="[NAME]",
        options=(
            Option("-d --driver", "local is the only one", value="NAME", default="local"),
            Option("-l --label", "a label", value="NAME=VALUE", many=True),
        ),
    ),
    Command("volume ls", "List volumes", does="cri.hand.volumes:ls", options=(QUIET, FILTER, FORMAT)),
    Command(
        "volume inspect",
        "Print all that is known of volumes",
        does="cri.hand.volumes:inspect",
        arguments="VOLUME...",
        options=(Option("-f --format", "json, or a template", value="FORM"),),
        complete="volume",
    ),
    Command(
        "volume rm",
        "Remove volumes",
        does="cri.hand.volumes:remove",
        arguments="VOLUME...",
        options=(Option("-f --force", "a volume that is not there is no error"),),
        complete="volume",
    ),
    Command(
        "volume prune",
        "Remove volumes that no container uses",
        does="cri.hand.volumes:prune",
        options=(Option("-a --all", "those with names too"), Option("-f --force", "do not ask")),
    ),
)

NETWORKS = (
    Command(
        "network create",
        "Make a network whose members reach each other by name, and nobody else",
        does="cri.hand.networks:create",
        arguments="NAME",
        options=(
            Option("-d --driver", "bridge is the only one", value="NAME", default="bridge"),
            Option("--subnet", "its addresses: 10.1.0.0/24", value="CIDR"),
            Option("--gateway", "this machine's address in it", value="ADDRESS"),
            Option("--internal", "no way out"),
            Option("--ipv6", "with IPv6 addresses as well"),
            Option("-l --label", "a label", value="NAME=VALUE", many=True),
        ),
    ),
    Command("network ls", "List networks", does="cri.hand.networks:ls", options=(QUIET, NO_TRUNC, FILTER, FORMAT)),
    Command(
        "network inspect",
        "Print all that is known of networks",
        does="cri.hand.networks:inspect",
        arguments="NETWORK...",
        options=(Option("-f --format", "json, or a template", value="FORM"),),
        complete="network",
    ),
    Command(
        "network rm", "Remove networks", does="cri.hand.networks:remove", arguments="NETWORK...", complete="network"
    ),
)

POD = Option("-c --container", "which container of the pod; default: the first", value="NAME")
FILE = Option("-f --filename", "the YAML file; - is stdin", value="FILE")

PODS = (
    Command(
        "pod apply",
        "Run the pods of a Kubernetes YAML file",
        does="cri.hand.pods:apply",
        options=(FILE, Option("--replace", "remove pods of the same name first")),
        examples=(("ketch pod apply -f pod.yaml", "the same file works under a kubelet"),),
    ),
    Command(
        "pod ls",
        "List pods",
        does="cri.hand.pods:ls",
        options=(Option("--all-owners", "the kubelet's too"), QUIET, NO_TRUNC, FORMAT),
    ),
    Command(
        "pod inspect",
        "Print all that is known of pods",
        does="cri.hand.pods:inspect",
        arguments="POD...",
        options=(Option("--format", "json, or a template", value="FORM"),),
        complete="pod",
    ),
    Command(
        "pod logs",
        "Print what a container of a pod has printed",
        does="cri.hand.pods:logs",
        arguments="POD",
        options=(
            POD,
            Option("-f --follow", "go on with what it prints from now on"),
            Option("-n --tail", "only the last lines", value="COUNT", default="all"),
            Option("--since", "only lines from this time on", value="TIME"),
            Option("--until", "only lines before this time", value="TIME"),
            Option("-t --timestamps", "with the time of each line"),
        ),
        complete="pod",
    ),
    Command(
        "pod exec",
        "Run a command in a container of a pod",
        does="cri.hand.pods:exec_",
        arguments="POD COMMAND [ARG...]",
        options=(
            POD,
            INTERACTIVE,
            TTY,
            Option("--detach-keys", "the keys that leave it running", value="KEYS", default="ctrl-p,ctrl-q"),
        ),
        rest=2,
        complete="pod",
    ),
    Command(
        "pod delete",
        "Stop and remove pods",
        does="cri.hand.pods:delete",
        arguments="[POD...]",
        options=(
            Option("-f --filename", "the pods of this YAML file", value="FILE"),
            Option("--grace-period", "seconds to wait before they are killed", value="SECONDS"),
        ),
        complete="pod",
    ),
)

SEEING = (
    Command(
        "explain",
        "Print what a command, a pod, a bundle or a CNI configuration would make, and make nothing",
        does="cri.hand.explain:explain",
        arguments="WHAT...",
        options=(FORMAT,),
        rest=1,
        detail="WHAT is a command line (run -p 80:80 nginx), a pod.yaml, a folder with a config.json, or a CNI "
        ".conflist. No root is needed.",
        examples=(
            ("ketch explain run -m 64m --read-only alpine", "every namespace, mount and limit, in order"),
            ("ketch explain pod.yaml", "the same for a pod"),
        ),
    ),
    Command(
        "why",
        "Say why a container is not running, with the evidence",
        does="cri.hand.why:why",
        arguments="CONTAINER",
        options=(FORMAT,),
        complete="container",
    ),
    Command(
        "doctor",
        "Say what this machine lacks, what that costs, and how to mend it",
        does="cri.hand.doctor:doctor",
        options=(FORMAT, Option("--verify", "compare every installed file with its sum instead")),
    ),
    Command(
        "system shutdown",
        "End the processes that wait for containers; refused while there are any",
        does="cri.hand.system:shutdown",
    ),
    Command(
        "debug",
        "Look into the running ketch-cri: what every thread does, which calls run, what it has counted",
        does="cri.hand.debug:debug",
        arguments="[stacks|calls|metrics]",
        examples=(("ketch debug stacks", "where a slow or stuck call is"),),
    ),
    Command("version", "Print versions", does="cri.hand.system:version", options=(FORMAT,)),
    Command("info", "Print what this installation is and holds", does="cri.hand.system:info", options=(FORMAT,)),
    Command(
        "completion",
        "Print a completion script for bash, zsh or fish",
        does="cri.hand.manual:completion",
        arguments="SHELL",
    ),
    Command(
        "man",
        "Print a man page, or write them all to a folder",
        does="cri.hand.manual:man",
        arguments="[COMMAND...]",
        options=(Option("-o --output", "write all pages into this folder", value="DIR"),),
    ),
)

# docker's longer spellings of the same commands.
ALIASES = {
    "container ls": "ps",
    "container list": "ps",
    "container ps": "ps",
    "image ls": "images",
    "image list": "images",
    "image rm": "rmi",
    "volume list": "volume ls",
    "volume remove": "volume rm",
    "network list": "network ls",
    "network remove": "network rm",
    "pod list": "pod ls",
    "pod ps": "pod ls",
    "pod rm": "pod delete",
    "apply": "pod apply",
    **{f"container {c.words}": c.words for c in CONTAINERS if c.words != "ps"},
    **{f"image {c.words}": c.words for c in IMAGES if c.words in ("pull", "push", "tag", "save", "load", "history")},
}

GROUPS = (
    ("Containers", CONTAINERS),
    ("Images", IMAGES),
    ("Volumes", VOLUMES),
    ("Networks", NETWORKS),
    ("Pods", PODS),
    ("Seeing inside", SEEING),
)
ALL = tuple(command for _, commands in GROUPS for command in commands)
