"""The server behind a certificate, with one HTTP process and with several."""

import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from tests.e2e.conftest import serve

TEXT = "/v1/completions"


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_requests_and_streams_over_tls(tmp_path: Path, workers: int) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(str(key))
    for piece in certificate.cert_chain_pems:
        piece.write_to_path(str(chain), append=True)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    flags = ("--tls-certificate", str(chain), "--tls-key", str(key), "--workers", str(workers))
    with serve("--engine", "synthetic", "--log-level", "error", *flags) as server:
        assert server.url.startswith("https://")
        port = int(server.url.rsplit(":", 1)[1])
        with httpx.Client(verify=trusted, timeout=30) as client:
            for _ in range(4):
                answer = client.post(server.url + TEXT, json={"prompt": "Hi", "max_tokens": 3})
                assert answer.json()["usage"]["completion_tokens"] == 3
            body = {"prompt": "Hi", "max_tokens": 20, "stream": True}
            with client.stream("POST", server.url + TEXT, json=body) as response:
                lines = [line for line in response.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            assert len(lines) > 3
        # Who does not trust the certificate, or speaks no TLS, harms nobody else.
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{server.url}/health/live")
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            plain.settimeout(10)
            try:
                answered = plain.recv(100)
            except ConnectionResetError:
                answered = b""
            assert not answered.startswith(b"HTTP/1.1 200")
        assert httpx.get(f"{server.url}/health/live", verify=trusted).status_code == 200
