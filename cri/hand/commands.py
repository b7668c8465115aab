# SPDX-License-Identifier: Apache-2.0
"""Every command of `ketch` with its options: the one definition behind parser, help, completion and man pages."""

from __future__ import annotations

from cri.hand.command_options import CHANGE, FILTER, FORMAT, INTERACTIVE, NO_TRUNC, QUIET, TTY
from cri.hand.container_commands import CONTAINERS
from cri.hand.grammar import Command, Option

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
        options=(
            Option("-a --all", "the nameless too"),
            Option("--digests", "with digests"),
            Option("-f --filter", "dangling=true, reference=NAME or label=NAME[=VALUE]", value="KEY=VALUE", many=True),
            QUIET,
            NO_TRUNC,
            FORMAT,
        ),
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
        does="cri.hand.archives:save",
        arguments="IMAGE...",
        options=(Option("-o --output", "the file; default: stdout", value="FILE"),),
        complete="image",
    ),
    Command(
        "load",
        "Read images from a tar archive",
        does="cri.hand.archives:load",
        options=(Option("-i --input", "the file; default: stdin", value="FILE"), QUIET),
    ),
    Command(
        "import",
        "Make an image of a tar archive of files, or of a folder",
        does="cri.hand.archives:import_",
        arguments="FILE [NAME]",
        options=(CHANGE,),
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
        does="cri.hand.archives:local",
        arguments="[NAME]",
    ),
    Command(
        "image prune",
        "Remove images that no container stands on",
        does="cri.hand.prune:image",
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
        does="cri.hand.prune:volume",
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
        "network prune",
        "Remove networks without members",
        does="cri.hand.prune:network",
        options=(Option("-f --force", "do not ask"),),
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
        "system prune",
        "Remove containers that do not run, networks without members, and images without a name",
        does="cri.hand.prune:system",
        options=(
            Option("-a --all", "all images that no container stands on"),
            Option("--volumes", "volumes without a name, too"),
            Option("-f --force", "do not ask"),
        ),
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
        complete="shell",
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
    **{f"container {c.words}": c.words for c in CONTAINERS if c.words != "ps" and " " not in c.words},
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
