"""Attacks on verification: hostile manifests, addresses that must not be fetched, polyglots, bombs."""

import io
import itertools
import json
import random
import resource
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import c2pa
import pytest

from danqing.cli.verify import _files
from danqing.errors import DataError
from danqing.trust import authority, credentials, manifest_store
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.verify import Verdict, verify
from tests.trust import jumbf
from tests.trust.certificates_of_others import Issuer
from tests.trust.pictures import FORMATS, picture

SIZE = 32
EDIT = Declaration(SourceType.PARTLY_GENERATED, "fill")
BOMBS = [b"\x81" * 100_000 + b"\x80", b"\xa1\x61a" * 100_000, b"\xc1" * 100_000, b"\x9f" * 100_000]
BOMBS += [b"\x9b\x7f" + b"\xff" * 7, b"\x7b\x7f" + b"\xff" * 7, b"\x9a\x3f\xff\xff\xff" + b"\0" * 500]


class Listener:
    """A server that counts connections."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/x.c2pa"
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.count += 1
            connection.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    authority.create(folder / "authority")
    return folder


@pytest.fixture(scope="module")
def owner(folder: Path) -> authority.Authority:
    return authority.load(folder / "authority")


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener()
    yield opened
    opened.close()


def written(
    definition: dict,
    format: str,
    owner: authority.Authority,
    *,
    url: str = "",
    embed: bool = True,
    compressed: bool = False,
) -> bytes:
    """A file signed by the library alone, whose XMP may name an address of its manifest."""
    offline = {
        "verify": {"verify_after_sign": False, "remote_manifest_fetch": False},
        "core": {"prefer_compress_manifests": compressed},
    }
    generator = {"claim_generator_info": [{"name": "x", "version": "1"}]}
    builder = c2pa.Builder(json.dumps(generator | definition), c2pa.Context.from_dict(offline))
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
    if url:
        builder.set_remote_url(url)
    if not embed:
        builder.set_no_embed()
    signer = c2pa.Signer.from_callback(owner.sign, c2pa.C2paSigningAlg.ES256, owner.certificate)
    signed = io.BytesIO()
    builder.sign(signer, f"image/{format}", io.BytesIO(picture(format, size=SIZE)), signed)
    return signed.getvalue()


def with_addresses(url: str) -> dict:
    """A manifest with addresses wherever it may have them."""
    elsewhere = {"url": url, "hash": "AA=="}
    cloud = {"label": "x", "size": 9, "location": elsewhere, "content_type": "application/json"}
    work = {"@context": url, "@type": "CreativeWork", "url": url}
    ingredient = {"title": "x", "format": "image/png", "relationship": "inputTo", "informational_URI": url}
    return {
        "assertions": [
            {"label": "c2pa.cloud-data", "data": cloud},
            {"label": "c2pa.soft-binding", "data": {"alg": "x", "blocks": [], "url": url}},
            {"label": "stds.schema-org.CreativeWork", "data": work},
        ],
        "ingredients": [ingredient],
    }


def hostile(rng: random.Random, url: str, owner: authority.Authority) -> Iterator[tuple[Verdict, bytes]]:
    """Files with hostile manifests, without end, and what they must be found to be."""
    files = {format: picture(format, size=SIZE, seed=1) for format in ("png", "webp")}
    stores = {
        format: credentials.sidecar(file, format, Declaration(), authority=owner)
        for format, file in files.items()
    }
    labels = ["c2pa.actions.v2", "c2pa.claim.v2", "c2pa.hash.data", "c2pa.signature"]
    elsewhere = [written({}, format, owner, url=url, embed=False) for format in FORMATS]
    both = [written({}, format, owner, url=url) for format in FORMATS]
    stranger = Issuer.root().leaf(url=url)
    signed = [
        credentials.sign(files["png"], "png", EDIT, authority=stranger, parent=each) for each in elsewhere
    ]
    signed.append(credentials.sign(files["png"], "png", Declaration(), authority=stranger))
    addresses = written(with_addresses(url), "png", owner)
    while True:
        yield from ((Verdict.NONE, file) for file in elsewhere)
        yield from ((Verdict.OURS, file) for file in both)
        yield from ((Verdict.OTHER, file) for file in signed)
        yield Verdict.BROKEN, addresses
        for format, file in files.items():
            store = bytearray(stores[format])
            for _ in range(rng.randint(1, 8)):
                store[rng.randrange(len(store))] = rng.randrange(256)
            broken = [
                jumbf.into(file, bytes(store)),
                jumbf.into(file, stores[format][: rng.randrange(1, len(store))]),
                jumbf.into(file, rng.randbytes(rng.randrange(1, 400))),
                jumbf.into(file, jumbf.nested(rng.choice([2, 30, 3000]))),
                jumbf.into(file, jumbf.with_content(stores[format], rng.choice(labels), rng.choice(BOMBS))),
                jumbf.into(files["png" if format == "webp" else "webp"], stores[format]),
                jumbf.into(jumbf.into(file, stores[format]), stores[format]),
            ]
            yield from ((Verdict.BROKEN, each) for each in broken)


def test_no_manifest_of_a_thousand_opens_a_connection_or_passes_for_ours(
    listener: Listener, folder: Path, owner: authority.Authority
) -> None:
    files = itertools.islice(hostile(random.Random(0), listener.url, owner), 1000)
    for number, (expected, file) in enumerate(files):
        started = time.perf_counter()
        found = verify(file, folder=folder)
        assert time.perf_counter() - started < 5, number
        assert found.verdict is expected, (number, found.summary)
    assert number == 999
    time.sleep(0.1)
    assert listener.count == 0
    # The same reader with the defaults of its library does fetch: the listener counts.
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/png", io.BytesIO(written({}, "png", owner, url=listener.url, embed=False)))
    time.sleep(0.1)
    assert listener.count == 1


def test_a_hostile_parent_never_stops_an_edit(
    listener: Listener, folder: Path, owner: authority.Authority
) -> None:
    for _, parent in itertools.islice(hostile(random.Random(1), listener.url, owner), 40):
        edited = credentials.sign(picture(size=SIZE), "png", EDIT, authority=owner, parent=parent)
        found = verify(edited, folder=folder)
        assert found.verdict is Verdict.OURS
        assert "parent" in [check.name for check in found.checks]
    time.sleep(0.1)
    assert listener.count == 0


def test_a_manifest_of_a_parent_cannot_be_changed_after_the_edit(
    folder: Path, owner: authority.Authority
) -> None:
    parent = credentials.sign(picture(seed=1, size=SIZE), "png", Declaration(), authority=owner)
    edited = credentials.sign(picture(size=SIZE), "png", EDIT, authority=owner, parent=parent)
    place = edited.index(b"trainedAlgorithmicMedia")  # in the manifest of the parent
    assert verify(edited, folder=folder).verdict is Verdict.OURS
    changed = edited[:place] + b"digitalCapture." + edited[place + 15 :]
    store = manifest_store.store_in(changed)
    restored = jumbf.into(picture(size=SIZE), store)
    assert verify(restored, folder=folder).verdict is Verdict.BROKEN


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_a_compressed_manifest_cannot_fill_the_memory(folder: Path, owner: authority.Authority) -> None:
    whole = written({}, "png", owner, compressed=True)
    assert verify(whole, folder=folder).verdict is Verdict.OURS
    store, before = manifest_store.store_in(whole), peak_mib()
    for blocks in (1, 2, 64, 1024):  # up to 16 GiB
        bomb = jumbf.into(picture(size=SIZE), jumbf.with_brotli(store, jumbf.zeros_in_brotli(blocks)))
        assert len(bomb) < 20_000
        assert verify(bomb, folder=folder).verdict is Verdict.BROKEN
    assert peak_mib() < before + 100


@pytest.mark.parametrize(("compressed", "most"), [(True, 8), (False, 200)])
def test_more_manifests_than_the_limit_are_rejected_before_they_are_read(
    folder: Path, owner: authority.Authority, compressed: bool, most: int
) -> None:
    store = manifest_store.store_in(written({}, "png", owner, compressed=compressed))
    [(kind, inside)] = jumbf.boxes(store)
    description, manifest = (jumbf.box(*each) for each in jumbf.boxes(inside))
    for count in (most, most + 1):
        bomb = jumbf.into(picture(size=SIZE), jumbf.box(kind, description + count * manifest))
        found = verify(bomb, folder=folder)
        assert found.verdict is Verdict.BROKEN or (compressed and count == most)
        assert (f"manifests, over {most} (manifest.limit)" in found.summary) == (count > most)
        edited = credentials.sign(picture(size=SIZE), "png", EDIT, authority=owner, parent=bomb)
        assert verify(edited, folder=folder).verdict is Verdict.OURS


def test_manifests_are_counted_where_a_gif_divides_them() -> None:
    assert manifest_store.manifests_in(b"br\xffob, b\xffrob and brob") == (0, 3)
    kinds = (b"c2ma", b"c2\xffma", b"c2cm", b"c2um", b"c2cl", b"c2as")
    assert manifest_store.manifests_in(b"".join(kind + b"\0\x11\0\x10\x80" for kind in kinds)) == (4, 0)


def test_a_chain_of_edits_is_read_in_a_thread_with_a_small_stack(
    folder: Path, owner: authority.Authority
) -> None:
    file = credentials.sign(picture(size=SIZE), "png", Declaration(), authority=owner)
    for _ in range(24):
        file = credentials.sign(picture(size=SIZE), "png", EDIT, authority=owner, parent=file)
    assert manifest_store.manifests_in(file) == (25, 0)
    verdicts = list[Verdict]()
    usual = threading.stack_size(2**19)
    try:
        thread = threading.Thread(target=lambda: verdicts.append(verify(file, folder=folder).verdict))
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join()
    assert verdicts == [Verdict.OURS]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 2**31 - 1, 2**31, 2**32 - 1])
def test_lengths_of_boxes_that_lie_are_read_at_once(
    length: int, folder: Path, owner: authority.Authority
) -> None:
    store = bytearray(credentials.sidecar(picture(size=SIZE), "png", Declaration(), authority=owner))
    places = [0, 8, 38, *(store.index(kind) - 4 for kind in (b"cbor", b"c2cl", b"jumd"))]
    for place in places:
        changed = store.copy()
        changed[place : place + 4] = length.to_bytes(4)
        for extended in (b"", (2**63 - 1).to_bytes(8), (2**64 - 1).to_bytes(8)):  # where the length is 1
            changed[place + 8 : place + 8 + len(extended)] = extended
            started, before = time.process_time(), peak_mib()
            found = verify(jumbf.into(picture(size=SIZE), bytes(changed)), folder=folder)
            # A length of 0 means "up to the end", which is true of the outermost box.
            assert found.verdict is Verdict.BROKEN or (length, place) == (0, 0)
            manifest_store.signer_of(bytes(changed), "x")
            assert time.process_time() - started < 5
            assert peak_mib() < before + 100


def zipped() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.png", picture(size=SIZE, seed=5))
    return archive.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_polyglots_do_not_borrow_a_signature(format: str, folder: Path, owner: authority.Authority) -> None:
    signed = credentials.sign(picture(format, size=SIZE), format, Declaration(), authority=owner)
    assert verify(signed, folder=folder).verdict is Verdict.OURS
    html = b"<html><script>alert(1)</script></html>"
    for tail in (zipped(), html, picture("jpeg", seed=2), signed, b"\0"):
        assert verify(signed + tail, folder=folder).verdict is Verdict.BROKEN  # all of a file is signed
    for other in FORMATS:
        foreign = verify(picture(other, size=SIZE, seed=3) + signed, folder=folder)
        assert foreign.verdict in (Verdict.NONE, Verdict.BROKEN)  # our signed file behind another image
    with pytest.raises(DataError):
        verify(html + signed, folder=folder)


def test_the_command_verifies_a_polyglot_as_the_image_and_not_as_the_archive(
    tmp_path: Path, folder: Path, owner: authority.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(folder))
    path = tmp_path / "both.jpg"
    path.write_bytes(picture("jpeg", size=SIZE) + zipped())
    assert zipfile.is_zipfile(path)
    assert list(_files([path])) == [path]
    assert verify(path).verdict is Verdict.NONE
