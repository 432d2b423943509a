"""XMP packets: written, merged with one that a file had, and read under limits.

ISO 16684-1 (XMP). The packets come from untrusted files: declarations of entities are rejected, and size,
depth and number of elements are limited.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from danqing.errors import DataError

MAX_BYTES = 2**20
_MAX_DEPTH, _MAX_NODES = 64, 20_000

_X, _RDF = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML = "http://www.w3.org/XML/1998/namespace"
_META, _ROOT, _DESCRIPTION = f"{{{_X}}}xmpmeta", f"{{{_RDF}}}RDF", f"{{{_RDF}}}Description"
_ABOUT, _ITEM, _RESOURCE = f"{{{_RDF}}}about", f"{{{_RDF}}}li", f"{{{_RDF}}}resource"

PREFIXES = {
    _X: "x",
    _RDF: "rdf",
    _XML: "xml",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://www.tc260.org.cn/ns/AIGC/1.0/": "TC260",
    "http://ns.adobe.com/xap/1.0/": "xmp",
}
"""The prefixes that are written, by namespace."""


class Packet(NamedTuple):
    """A parsed packet: its root, and its prefix for each namespace."""

    root: Element
    prefixes: Mapping[str, str]


def write(properties: Mapping[str, str], previous: bytes = b"") -> bytes:
    """Write a packet with simple properties.

    properties: texts by `{namespace}name`. They replace those of the previous packet.
    previous: the packet that the file had, whose other properties are kept; b"" if there is none.
    Raises DataError if the previous packet cannot be read.
    """
    packet = parse(previous) if previous else Packet(_empty(), {})
    rdf = _rdf_of(packet.root)
    about = ""
    for description in rdf.findall(_DESCRIPTION):
        about = about or description.get(_ABOUT, "")
        _remove(description, properties)
    own = SubElement(rdf, _DESCRIPTION, {_ABOUT: about})
    for name, text in properties.items():
        SubElement(own, name).text = text
    return _serialized(packet)


def only(packet: bytes, names: Iterable[str]) -> bytes:
    """Keep only some properties of a packet.

    names: as `{namespace}name`. Returns b"" if it has none of them.
    Raises DataError if the packet cannot be read.
    """
    parsed, wanted, root = parse(packet), set(names), _empty()
    own = SubElement(_rdf_of(root), _DESCRIPTION, {_ABOUT: ""})
    for description in _rdf_of(parsed.root).findall(_DESCRIPTION):
        for name in wanted & description.attrib.keys():
            own.set(name, description.attrib[name])
        for child in description:
            if child.tag in wanted:
                child.tail = None
                own.append(child)
    return _serialized(Packet(root, parsed.prefixes)) if len(own) or len(own.attrib) > 1 else b""


def properties_of(packet: bytes) -> dict[str, tuple[str, ...]]:
    """Return the properties of a packet by `{namespace}name`.

    The value of a property is its text, or the texts of its list. Structures have no value.
    Raises DataError if the packet cannot be read.
    """
    found: dict[str, tuple[str, ...]] = {}
    for description in _rdf_of(parse(packet).root).findall(_DESCRIPTION):
        found |= {name: (text,) for name, text in description.items() if name != _ABOUT}
        for child in description:
            items = [item.text or "" for item in child.iter(_ITEM)]
            found[child.tag] = tuple(items) if len(child) else (child.get(_RESOURCE) or child.text or "",)
    return found


def parse(packet: bytes) -> Packet:
    """Parse a packet under limits.

    Raises DataError if it is not XML, declares a document type, or is too large or too deep.
    """
    if len(packet) > MAX_BYTES:
        raise DataError(f"The XMP data have {len(packet):,} bytes, over {MAX_BYTES:,}: remove them.")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.namespace_prefixes = True
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.builder.data
    try:
        parser.Parse(packet.rstrip(b"\0 \r\n\t"), True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"The XMP data are damaged ({error}): remove them.") from error
    return Packet(reader.builder.close(), reader.prefixes)


class _Reader:
    """Builds a tree from the events of expat."""

    def __init__(self) -> None:
        self.builder = TreeBuilder()
        self.prefixes: dict[str, str] = {}
        self._depth = self._nodes = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._nodes += 1 + len(attributes)
        if self._depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise DataError("The XMP data are too deep or have too many elements: remove them.")
        self.builder.start(self._tag(name), {self._tag(key): value for key, value in attributes.items()})

    def end(self, name: str) -> None:
        self._depth -= 1
        self.builder.end(self._tag(name))

    def _tag(self, name: str) -> str:
        """Turn `namespace}name}prefix`, as expat names things, into `{namespace}name`."""
        namespace, is_named, rest = name.partition("}")
        if not is_named:
            return name
        local, _, prefix = rest.partition("}")
        if prefix:
            self.prefixes.setdefault(namespace, prefix)
        return f"{{{namespace}}}{local}"


def _refuse_document_type(*_: object) -> None:
    raise DataError("The XMP data declare a document type, which XMP never does: remove them.")


def _empty() -> Element:
    root = Element(_META)
    SubElement(root, _ROOT)
    return root


def _rdf_of(root: Element) -> Element:
    rdf = root if root.tag == _ROOT else root.find(_ROOT)
    if rdf is None:
        raise DataError("The XMP data hold no rdf:RDF: remove them.")
    return rdf


def _remove(description: Element, names: Iterable[str]) -> None:
    names = set(names)
    for name in names & description.attrib.keys():
        del description.attrib[name]
    for child in [child for child in description if child.tag in names]:
        description.remove(child)


def _serialized(packet: Packet) -> bytes:
    """Return a tree as a packet, with every namespace declared at its root."""
    prefixes = _unique_prefixes(packet)
    spaces = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for uri, prefix in prefixes.items() if uri != _XML)
    parts = ['<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>']
    _append(parts, packet.root, prefixes, spaces)
    parts.append('<?xpacket end="w"?>')
    return "".join(parts).encode("utf-8", "replace")


def _unique_prefixes(packet: Packet) -> dict[str, str]:
    """Return a prefix for each namespace of a tree, its own where that is free."""
    used: dict[str, str] = {}
    for element in packet.root.iter():
        for name in (element.tag, *element.keys()):
            uri = name[1:].partition("}")[0] if name.startswith("{") else ""
            if uri and uri not in used:
                wanted = PREFIXES.get(uri) or packet.prefixes.get(uri, "ns")
                taken, prefix = {*used.values(), *PREFIXES.values()} - {PREFIXES.get(uri)}, wanted
                number = 0
                while prefix in taken:
                    prefix, number = f"{wanted}{number}", number + 1
                used[uri] = prefix
    return used


def _append(parts: list[str], element: Element, prefixes: Mapping[str, str], spaces: str = "") -> None:
    def short(name: str) -> str:
        uri, is_named, local = name[1:].partition("}") if name.startswith("{") else ("", "", name)
        return f"{prefixes[uri]}:{local}" if is_named else local

    tag = short(element.tag)
    parts.append(f"<{tag}{spaces}")
    parts.extend(f" {short(name)}={quoteattr(_legal(value))}" for name, value in element.items())
    parts.append(f">{escape(_legal(element.text or ''))}")
    for child in element:
        _append(parts, child, prefixes)
        parts.append(escape(_legal(child.tail or "")))
    parts.append(f"</{tag}>")


def _legal(text: str) -> str:
    """Replace characters that XML cannot hold (XML 1.0, section 2.2)."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff")
        else "\ufffd"
        for c in text
    )
