"""TLS 1.3 on the link between two processes that trust one key pair, and nobody else.

The process that launches a runner makes the pair for that launch (`new_identity`) and hands it to the runner
and to those that connect to it. Both sides present the same certificate and accept no other, so each proves
that it has the key. A handshake is driven by the owner's poll or event loop: nothing here blocks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta

NAME = "trtllm-openai runner link"
VALID = timedelta(days=3650)
"""A pair ends with its launch, which knows no date."""


def new_identity() -> str:
    """A private key with its certificate, as PEM. Raises `ImportError` without the package cryptography."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of machines differ
        .not_valid_after(now + VALID)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode()


def wrapped(connection: socket.socket, identity: str, *, listener: bool) -> ssl.SSLSocket:
    """The connection with TLS, before its handshake. Raises `ssl.SSLError` for what is no identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listener else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is what is known
    context.verify_mode = ssl.CERT_REQUIRED
    if listener:
        context.num_tickets = 0  # a link is not resumed
    context.load_verify_locations(cadata=identity[identity.index("-----BEGIN CERTIFICATE") :])
    file = os.memfd_create("identity")  # `load_cert_chain` reads files only
    try:
        os.write(file, identity.encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context.wrap_socket(connection, server_side=listener, do_handshake_on_connect=False)


def advance(connection: ssl.SSLSocket) -> bool:
    """Continue a handshake as far as possible. Returns whether it is complete. Raises `OSError`."""
    try:
        connection.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True


async def connected(connection: socket.socket, identity: str, timeout_s: float) -> ssl.SSLSocket:
    """The connector's handshake. Raises `OSError` or `TimeoutError`; the socket is closed then."""
    loop = asyncio.get_running_loop()
    tls = wrapped(connection, identity, listener=False)
    try:
        async with asyncio.timeout(timeout_s):
            while not advance(tls):
                readable = asyncio.Event()
                loop.add_reader(tls.fileno(), readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(tls.fileno())
    except BaseException:
        tls.close()
        raise
    return tls
