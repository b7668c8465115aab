# SPDX-License-Identifier: Apache-2.0
"""Options that several commands of `ketch` have."""

from __future__ import annotations

from cri.hand.grammar import Option

FORMAT = Option("--format", "json, or a template such as '{{.Names}}'", value="FORM")
QUIET = Option("-q --quiet", "print ids only")
CHANGE = Option("-c --change", "set CMD, ENTRYPOINT, ENV, USER or WORKDIR", value="INSTRUCTION", many=True)
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
SIG_PROXY = Option("--sig-proxy", "pass signals on to it; --sig-proxy=false: they are ours", default="true")
