"""Time stamps of another service, here openssl: images stay valid for all readers when a leaf has ended."""

import http.server
import io
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import c2pa
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from danqing.errors import TrustError
from danqing.trust import authority, certificates, credentials
from danqing.trust.declaration import Declaration
from tests.trust.certificates_of_others import Issuer
from tests.trust.pictures import picture

CONFIGURATION = """[tsa]
default_tsa = one
[one]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
certs = {folder}/root.pem
signer_key = {folder}/key.pem
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


class Stamper:
    """A time stamp service (RFC 3161) by openssl."""

    def __init__(self, folder: Path) -> None:
        self.issuer, self.queries, self.is_down = Issuer.root("Stamps"), 0, False
        key = certificates.new_key()
        certificate = self.issuer.issue(key, usage=ExtendedKeyUsageOID.TIME_STAMPING)
        self.root = certificates.certificate_pem(self.issuer.certificate)
        (folder / "root.pem").write_text(self.root)
        (folder / "tsa.pem").write_text(certificates.certificate_pem(certificate))
        (folder / "key.pem").write_text(certificates.key_pem(key))
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(CONFIGURATION.format(folder=folder))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.queries += 1
                query = folder / "query"
                query.write_bytes(self.rfile.read(int(self.headers["content-length"])))
                command = ["openssl", "ts", "-reply", "-section", "one"]
                command += ["-queryfile", query, "-config", folder / "tsa.cnf", "-out", folder / "reply"]
                subprocess.run(command, check=True, capture_output=True)
                reply = (folder / "reply").read_bytes()
                self.send_response(503 if outer.is_down else 200)
                self.send_header("content-type", "application/timestamp-reply")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def stamper(tmp_path: Path) -> Iterator[Stamper]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    running = Stamper(tmp_path)
    yield running
    running.close()


def test_a_time_stamp_keeps_an_image_valid_for_all_readers(stamper: Stamper) -> None:
    issuer = Issuer.root()
    root = certificates.certificate_pem(issuer.certificate)
    short = issuer.leaf(seconds=3)
    stamped = credentials.sign(
        picture(), "png", Declaration(), authority=replace(short, timestamps=stamper.url)
    )
    assert stamper.queries == 1
    time.sleep(max(0.0, short.expires.timestamp() + 1.2 - time.time()))
    anchors = root + stamper.root
    context = c2pa.Context.from_dict({"trust": {"user_anchors": anchors}})
    reader = c2pa.Reader("image/png", io.BytesIO(stamped), context=context)
    assert reader.get_validation_state() == "Trusted"
    for roots in ([root, stamper.root], [root]):  # ours needs no stamp
        found = credentials.read(stamped, roots=roots)
        assert found is not None
        assert found.trusted
    assert stamper.queries == 1


def test_an_image_without_the_requested_stamp_is_not_written(stamper: Stamper, tmp_path: Path) -> None:
    owner = authority.create(tmp_path / "authority", timestamps=stamper.url)
    assert authority.rotate(tmp_path / "authority").timestamps == stamper.url
    stamper.is_down = True
    with pytest.raises(TrustError, match="cannot be signed"):
        credentials.sign(picture(), "png", Declaration(), authority=owner)
    with pytest.raises(TrustError, match="https"):
        authority.create(tmp_path / "other", timestamps="stamps.example")
