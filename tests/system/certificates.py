"""A certificate authority of the tests' own."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from resilient_nb.client import Tls


class Authority:
    """Signs certificates and writes them, with their keys, to a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("the tests' authority")
        own = self._sign(self._name, self._key.public_key(), authority=True)
        self.file = self._write("ca.pem", own.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str) -> Tls:
        """Return files that show their holder to be this user."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name), key.public_key())
        stem = f"user-{certificate.serial_number}"
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        cert = self._write(f"{stem}.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return Tls(self.file, cert, self._write(f"{stem}.key", secret))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(tz=datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, data: bytes) -> str:
        file = self._folder / name
        file.write_bytes(data)
        return str(file)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
