"""`trio-stt cert`: a certificate for trials, signed by nobody but itself."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

OWN_NAMES = ("localhost", "127.0.0.1", "::1")


def self_signed(names: tuple[str, ...], days: int) -> tuple[bytes, bytes]:
    """A certificate for these host names and addresses, valid from now on, and its private key; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trio-stt development")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )  # so that clients can be told of it
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@click.command("cert")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="Host name or address, besides localhost; may be repeated."
)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is valid.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Where cert.pem and key.pem are written.  [default: here]",
)
def cert(hosts: tuple[str, ...], days: int, folder: Path) -> None:
    """Make a self-signed certificate for trials: browsers warn, clients must be told of it. Never for users."""
    certificate_file, key_file = folder / "cert.pem", folder / "key.pem"
    try:
        certificate, key = self_signed((*OWN_NAMES, *hosts), days)
    except ValueError as error:
        raise click.UsageError(f"--host: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # "x": what is there may be in use, and cannot be made again.
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        with certificate_file.open("xb") as file:
            file.write(certificate)
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror}") from error
    click.echo(f"TLS_CERT={certificate_file.absolute()}\nTLS_KEY={key_file.absolute()}")
