# SPDX-License-Identifier: Apache-2.0
.PHONY: setup build
setup: .venv/ready
.venv/ready: pyproject.toml
	apt-get install -y -qq --no-install-recommends python3-venv python3-dev gcc libc6-dev libseccomp-dev nftables iptables iproute2 busybox-static
	/usr/bin/python3 -m venv .venv
	.venv/bin/pip install -q -e '.[cni,cri,dev]' || .venv/bin/pip install -q cffi
	touch $@
build: .venv/ready
	.venv/bin/python setup.py -q build_ext --inplace
# The generated code is committed; run this after a change of cri.proto.
.PHONY: proto
proto: .venv/ready
	.venv/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. proto/cri.proto
