"""What danqing uses of other packages beyond their documented interfaces still works as it expects."""

import asyncio
import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from packaging.requirements import Requirement
from torch.nn import functional as F
from typer import rich_utils
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from danqing.recognition import unit_rows

_UVICORN = (
    f"uvicorn {uvicorn.__version__} changed {{}}, which src/danqing/service/ extends: "
    "adapt the service, or keep the upper bound of uvicorn in pyproject.toml."
)
_TORCH = (
    f"torch {torch.__version__} changed {{}}, which danqing uses: adapt {{}}, "
    "or keep the upper bound of torch in pyproject.toml."
)
_PRODUCTS = "src/danqing/nets/decoders/products.py"


class _Transport(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Watched(HttpToolsProtocol):
    """The protocol, which notes the hooks that uvicorn calls."""

    calls: list[str]


def _watch(name: str) -> None:
    original = getattr(HttpToolsProtocol, name, None)
    assert original is not None, _UVICORN.format(f"HttpToolsProtocol.{name}")

    def noted(self: _Watched, *arguments: Any) -> Any:
        self.calls.append(name)
        return original(self, *arguments)

    setattr(_Watched, name, noted)


_REQUEST_HOOKS = [
    "on_message_begin",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
]
for _name in [*_REQUEST_HOOKS, "send_400_response", "timeout_keep_alive_handler"]:
    _watch(_name)


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _connected() -> tuple[_Watched, _Transport]:
    config = uvicorn.Config(_answer, http=_Watched, lifespan="off", ws="none", log_config=None)
    config.load()
    protocol, transport = _Watched(config=config, server_state=ServerState(), app_state={}), _Transport()
    protocol.calls = []
    protocol.connection_made(transport)
    return protocol, transport


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_uvicorn_calls_the_hooks_of_its_protocol_in_this_order() -> None:
    async def exchange() -> None:
        protocol, transport = _connected()
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi")
        for name in ("cycle", "scope", "transport", "loop", "client", "timeout_keep_alive_task"):
            assert hasattr(protocol, name), _UVICORN.format(f"HttpToolsProtocol.{name}")
        assert protocol.cycle.response_complete is False, _UVICORN.format(
            "RequestResponseCycle.response_complete"
        )
        await _settle()
        assert transport.written.startswith(b"HTTP/1.1 200"), _UVICORN.format("how an answer is written")
        assert protocol.calls == _REQUEST_HOOKS, _UVICORN.format(f"the order of its hooks ({protocol.calls})")
        assert protocol.cycle.response_complete is True, _UVICORN.format(
            "RequestResponseCycle.response_complete"
        )
        assert protocol.timeout_keep_alive_task is not None, _UVICORN.format("timeout_keep_alive_task")
        protocol.timeout_keep_alive_handler()
        assert transport.closed, _UVICORN.format("timeout_keep_alive_handler")

    asyncio.run(exchange())


def test_uvicorn_reports_what_is_not_http_by_the_hook_that_answers_400() -> None:
    async def exchange() -> None:
        protocol, transport = _connected()
        protocol.data_received(b"\x16\x03\x01 not HTTP\r\n\r\n")
        assert protocol.calls[-1] == "send_400_response", _UVICORN.format("send_400_response")
        assert transport.closed

    asyncio.run(exchange())


@pytest.mark.parametrize(
    "name", ["startup", "shutdown", "handle_exit", "should_exit", "force_exit", "server_state"]
)
def test_uvicorn_has_the_parts_of_its_server_that_are_overridden(name: str) -> None:
    server = uvicorn.Server(uvicorn.Config(_answer, log_config=None))
    assert hasattr(server, name), _UVICORN.format(f"Server.{name}")


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("_reorder_linear_weight.default", ["self", "batch_size"]),
        ("_linear_pointwise.default", ["X", "W", "B", "attr", "scalars", "algorithm"]),
        ("_linear_pointwise.binary", ["X", "other", "W", "B", "attr"]),
        ("_is_mkldnn_bf16_supported.default", []),
    ],
)
def test_torch_has_the_operators_that_multiply_by_packed_weights(operator: str, arguments: list[str]) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN, and the packed products are not used")
    name, _, overload = operator.partition(".")
    packet = getattr(torch.ops.mkldnn, name, None)
    found = getattr(packet, overload, None) if packet else None
    assert found is not None, _TORCH.format(f"mkldnn.{operator}", _PRODUCTS)
    names = [argument.name for argument in found._schema.arguments]
    assert names == arguments, _TORCH.format(f"the arguments of mkldnn.{operator} to {names}", _PRODUCTS)


def test_torch_multiplies_by_packed_weights_as_by_plain_ones() -> None:
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16 numbers, and the packed products are not used")
    x, weight, other = (torch.randn(shape).bfloat16() for shape in ((4, 32), (64, 32), (4, 64)))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 4)
    multiply, expected = torch.ops.mkldnn._linear_pointwise, F.linear(x.float(), weight.float())
    found = {
        "none": (multiply.default(x, packed, None, "none", [], ""), expected),
        "swish": (multiply.default(x, packed, None, "swish", [], ""), F.silu(expected)),
        "mul": (multiply.binary(x, other, packed, None, "mul"), expected * other.float()),
    }
    for name, (ours, theirs) in found.items():
        close = torch.allclose(ours.float(), theirs, rtol=0.05, atol=0.2)
        assert close, _TORCH.format(f"what mkldnn._linear_pointwise computes for {name}", _PRODUCTS)


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("_is_amx_tile_supported", "src/danqing/nets/decoders/raster.py"),
        ("_is_avx512_bf16_supported", "src/danqing/precision.py"),
        ("_is_vnni_supported", "src/danqing/recognition/unit_rows.py"),
    ],
)
def test_torch_reports_what_the_processor_can_do(name: str, user: str) -> None:
    check = getattr(torch.cpu, name, None)
    assert check is not None, _TORCH.format(f"torch.cpu.{name}", user)
    assert isinstance(check(), bool), _TORCH.format(f"torch.cpu.{name}", user)


def test_torch_multiplies_8_bit_numbers_exactly() -> None:
    codes, table = (torch.randint(-127, 128, (n, 300), dtype=torch.int8) for n in (3, 50))
    if not unit_rows.has_8_bit_products():
        pytest.skip("this processor does not multiply 8-bit numbers, and searches in float32")
    expected = codes.int() @ table.int().T
    user = "src/danqing/recognition/unit_rows.py"
    assert torch.equal(torch._int_mm(codes, table.T), expected), _TORCH.format("torch._int_mm", user)
    extreme = torch.full((2, 300), -127, dtype=torch.int8)
    assert int(torch._int_mm(extreme, extreme.T)[0, 1]) == 300 * 127**2, _TORCH.format("_int_mm", user)


def test_torch_counts_the_changes_of_a_tensor_in_place() -> None:
    tensor = torch.zeros(2)
    before = tensor._version
    tensor += 1
    assert tensor._version > before, _TORCH.format(
        "Tensor._version", "src/danqing/nets/decoders/layout_cache.py"
    )


@pytest.mark.parametrize("package", ["torch", "uvicorn", "rich", "typer"])
def test_a_package_whose_internals_are_used_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    (wanted,) = (Requirement(line) for line in lines if Requirement(line).name == package)
    assert any(part.operator == "<" for part in wanted.specifier), (
        f"{package} needs an upper bound in pyproject.toml"
    )


def test_typer_and_rich_have_what_the_chinese_help_replaces():
    divide_line: Any = importlib.import_module("rich.text").divide_line
    assert inspect.signature(divide_line).parameters.keys() == {"text", "width", "fold"}
    titles = {name: getattr(rich_utils, name) for name in ("OPTIONS_PANEL_TITLE", "DEFAULT_STRING")}
    assert titles == {"OPTIONS_PANEL_TITLE": "Options", "DEFAULT_STRING": "[default: {}]"}
