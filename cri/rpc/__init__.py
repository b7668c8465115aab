# SPDX-License-Identifier: Apache-2.0
"""gRPC over HTTP/2 on a unix socket, as much of it as a server of unary and server-streaming calls needs."""
