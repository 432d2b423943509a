"""XMP packets: written, merged and read, also hostile ones."""

import time
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.errors import DataError
from danqing.trust import labels, xmp
from danqing.trust.declaration import Declaration
from danqing.trust.settings import MarkSettings

OWN = "{http://ns.adobe.com/xap/1.0/}CreatorTool"
PREVIOUS = """<?xpacket begin="" id="x"?><x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="a camera">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:TC260="urn:other"
  xmlns:xap="http://ns.adobe.com/xap/1.0/" xap:CreatorTool="an old tool" TC260:note="&quot;quoted&quot;">
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© &lt;me&gt;</rdf:li></rdf:Alt></dc:rights>
<dc:subject><rdf:Bag><rdf:li>sea</rdf:li><rdf:li>海</rdf:li></rdf:Bag></dc:subject>
<dc:source rdf:resource="https://example.org/a?b&amp;c"/>
</rdf:Description></rdf:RDF></x:xmpmeta>                <?xpacket end="w"?>""".encode()


@given(st.text(), st.text())
def test_any_text_is_read_as_it_was_written_except_what_xml_cannot_hold(text: str, second: str) -> None:
    packet = xmp.write({OWN: second}, xmp.write({OWN: text, labels.SYSTEM: text}))
    ElementTree.fromstring(packet)
    found = xmp.properties_of(packet)
    legal = "".join(c if c in "\t\n\r" or is_legal(c) else "\ufffd" for c in text).replace("\r\n", "\n")
    assert found[labels.SYSTEM] == (legal.replace("\r", "\n"),)
    assert len(found) == 2


def is_legal(c: str) -> bool:
    """Return whether XML 1.0 allows a character, besides white space."""
    return " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000"


def test_the_properties_of_the_previous_packet_are_kept_and_ours_are_replaced() -> None:
    packet = xmp.write({OWN: "new"}, PREVIOUS)
    before, after = xmp.properties_of(PREVIOUS), xmp.properties_of(packet)
    assert after == before | {OWN: ("new",)}
    assert before[OWN] == ("an old tool",)
    dc = "{http://purl.org/dc/elements/1.1/}"
    assert after[f"{dc}rights"] == ("© <me>",)
    assert after[f"{dc}subject"] == ("sea", "海")
    assert after[f"{dc}source"] == ("https://example.org/a?b&c",)
    root = ElementTree.fromstring(packet)
    abouts = {e.get("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about") for e in root[0]}
    assert abouts == {"uuid:1"}
    assert root.get("{adobe:ns:meta/}xmptk") == "a camera"
    assert xmp.write({OWN: "new"}, packet).count(b"CreatorTool") == 2  # one element


def test_a_packet_can_be_reduced_to_the_labels_of_generated_images() -> None:
    assert labels.only_labels(PREVIOUS) == b""
    reduced = labels.only_labels(xmp.write({labels.AIGC: "{}", OWN: "new"}, PREVIOUS))
    assert xmp.properties_of(reduced) == {labels.AIGC: ("{}",)}
    for kept in (b"a camera", b"uuid:1", b"note"):
        assert kept in PREVIOUS
        assert kept not in reduced
    thing = b'<f:t xmlns:f="urn:f" rdf:about="Ann">Bob</f:t>'
    beside = PREVIOUS.replace(b"</rdf:RDF>", thing + b"</rdf:RDF>").replace(b"</x:xmp", b"Eve</x:xmp")
    both = xmp.write({labels.AIGC: "{}"}, beside)
    assert {name for name in (b"Ann", b"Bob", b"Eve") if name in both} == {b"Ann", b"Bob", b"Eve"}
    assert not {name for name in (b"Ann", b"Bob", b"Eve") if name in labels.only_labels(both)}


@pytest.mark.parametrize("value", ["<rdf:Bag/>", "<TC260:note>x</TC260:note>", ""])
def test_a_label_of_another_form_is_replaced(value: str) -> None:
    namespace, _, name = labels.AIGC[1:].partition("}")
    label = f'<own:{name} xmlns:own="{namespace}">{value}</own:{name}></rdf:Description>'
    previous = PREVIOUS.replace(b"</rdf:Description>", label.encode())
    packet = labels.packet(Declaration(), MarkSettings(), image_id="a", pixels_sha256="b", previous=previous)
    (text,) = xmp.properties_of(packet)[labels.AIGC]
    assert labels.read_aigc(text)["ContentProducer"] == "Danqing"


def nested(depth: int) -> bytes:
    return b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>" + b"<a>" * depth + b"x"


_BOMB = (
    "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)).replace("&a0;", "&a;")
    + "]><x>&a9;</x>"
).encode()


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(_BOMB, id="a billion laughs"),
        pytest.param(b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>", id="a file"),
        pytest.param(b"<!DOCTYPE x SYSTEM 'http://127.0.0.1:1/x.dtd'><x/>", id="a remote declaration"),
        pytest.param(nested(10_000), id="ten thousand levels"),
        pytest.param(b"<x>" + b"<a/>" * 50_000 + b"</x>", id="fifty thousand elements"),
        pytest.param(b"<x>" + b" " * 2_000_000 + b"</x>", id="two megabytes"),
        pytest.param(b"<x", id="half a packet"),
        pytest.param(b"<?xml version='1.0' encoding='no-such'?><x/>", id="an unknown encoding"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b"<x/>", id="no RDF"),
    ],
)
def test_hostile_packets_are_rejected_at_once(packet: bytes) -> None:
    began = time.process_time()
    with pytest.raises(DataError, match=r"XMP data .*remove them\.$"):
        xmp.write({OWN: "new"}, packet)
    assert time.process_time() - began < 0.5
