#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Put Ketch on the guest as the README says: build the tree, install it, start the unit. Root; may run again.
# What `make install DESTDIR=build/installed` has staged on a host of the same release is taken instead.
set -eu
cd /vagrant
command -v make > /dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends make git; }
if [ -d /opt/ketch/venv ] && [ ! -e .venv ]; then
  # the box built here holds the packages and a venv of all requirements: nothing is downloaded
  ln -s /opt/ketch/venv .venv
  touch .venv/ready
fi
if [ -d build/installed ]; then
  cp -dR --preserve=mode,timestamps --remove-destination build/installed/. / # Vagrant gave the files to its user
else
  make build
  make install PREFIX=/usr/local
fi
systemctl daemon-reload
systemctl enable --now ketch-cri.service
ketch doctor || true # says what this node lacks; that is no reason to refuse the machine
