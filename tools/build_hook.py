"""Generates ``doorward.api`` and ``doorward.envoy_api`` before the package is built or installed.

Runs in two places with the same code: as hatchling's build hook, inside an isolated build
environment, and as ``python tools/build_hook.py`` (``make generate``), inside the generator
environment that the Makefile keeps. Both write into the source tree; git ignores the result.

Envoy's descriptors are read out of the ``xds-protos`` wheel as data. That package is never imported
here and never reaches the run-time environment, where its files would collide with others.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
API = ROOT / "src" / "doorward" / "api"
ENVOY_API = ROOT / "src" / "doorward" / "envoy_api"
FINGERPRINT = API / "_fingerprint.txt"
GENERATORS = ("grpcio-tools", "mypy-protobuf", "xds-protos")

ENVOY_ROOTS = (
    "envoy/service/auth/v3/external_auth",
    "envoy/service/discovery/v3/ads",
    "envoy/service/ext_proc/v3/external_processor",
    "envoy/config/bootstrap/v3/bootstrap",
    "envoy/config/listener/v3/listener",
    "envoy/config/cluster/v3/cluster",
    "envoy/config/route/v3/route",
    "envoy/config/route/v3/scoped_route",
    "envoy/config/endpoint/v3/endpoint",
    "envoy/config/trace/v3/opentelemetry",
    "envoy/config/common/matcher/v3/matcher",
    "envoy/extensions/common/matching/v3/extension_matcher",
    "envoy/extensions/access_loggers/file/v3/file",
    "envoy/extensions/access_loggers/filters/cel/v3/cel",
    "envoy/extensions/access_loggers/stream/v3/stream",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz",
    "envoy/extensions/filters/http/ext_proc/v3/ext_proc",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation",
    "envoy/extensions/filters/http/lua/v3/lua",
    "envoy/extensions/filters/http/router/v3/router",
    "envoy/extensions/filters/http/set_metadata/v3/set_metadata",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation",
    "envoy/extensions/request_id/uuid/v3/uuid",
    "envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections",
    "envoy/extensions/resource_monitors/fixed_heap/v3/fixed_heap",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/parent_based_sampler",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/trace_id_ratio_based_sampler",
    "envoy/extensions/transport_sockets/tls/v3/tls",
    "envoy/extensions/upstreams/http/v3/http_protocol_options",
    "envoy/type/matcher/v3/regex",
)
"""The messages that we build or read; everything that they import is generated with them."""

EXTERNAL = re.compile(r"^(google/(?!api/expr/)|opentelemetry/)")
"""Files that come from distributions of their own at run time."""


def fingerprint() -> str:
    """The hash of everything that the generated code depends on, as hex."""
    digest = hashlib.sha256()
    for path in sorted(PROTOS.rglob("*.proto")):
        digest.update(path.relative_to(PROTOS).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether the tree holds what the present inputs would generate."""
    return FINGERPRINT.is_file() and FINGERPRINT.read_text().strip() == fingerprint()


def generate() -> None:
    """Write both packages, replacing what an earlier run wrote."""
    _clear(API)
    _clear(ENVOY_API)
    with tempfile.TemporaryDirectory() as scratch:
        _generate_api(Path(scratch) / "api")
        _generate_envoy(Path(scratch) / "envoy")
    FINGERPRINT.write_text(fingerprint() + "\n")


def _clear(package: Path) -> None:
    for child in package.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
    FINGERPRINT.unlink(missing_ok=True)


def _protoc(*arguments: str) -> None:
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            *arguments,
        ],
        check=True,
    )


def _generate_api(scratch: Path) -> None:
    scratch.mkdir()
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    _protoc(
        f"--proto_path={PROTOS}",
        f"--proto_path={Path(_module_path('grpc_tools')) / '_proto'}",
        f"--python_out={scratch}",
        f"--mypy_out=quiet,readable_stubs:{scratch}",
        f"--grpc_python_out={scratch}",
        f"--mypy_grpc_out=quiet:{scratch}",
        *files,
    )
    _install(scratch / "doorward" / "api", API, rewrite=None)


def _generate_envoy(scratch: Path) -> None:
    scratch.mkdir()
    files = _closure()
    descriptor_set = scratch / "envoy.binpb"
    descriptor_set.write_bytes(descriptor_pb2.FileDescriptorSet(file=files).SerializeToString())
    ours = [file.name for file in files if not EXTERNAL.match(file.name)]
    out = scratch / "out"
    out.mkdir()
    with_services = [file.name for file in files if file.service and file.name in ours]
    common = f"--descriptor_set_in={descriptor_set}"
    _protoc(common, f"--python_out={out}", f"--mypy_out=quiet,readable_stubs:{out}", *ours)
    _protoc(common, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *with_services)
    tops = [*sorted({name.split("/")[0] for name in ours} - {"google"}), r"google\.api\.expr"]
    pattern = re.compile(rf"^(\s*)(from |import )((?:{'|'.join(tops)})\b)", re.MULTILINE)
    _install(out, ENVOY_API, rewrite=pattern)


def _install(source: Path, target: Path, rewrite: re.Pattern[str] | None) -> None:
    """Copy a generated tree below ``target``, with packages and absolute imports made ours."""
    for path in sorted(source.rglob("*.py*")):
        text = path.read_text()
        if rewrite is not None:
            text = rewrite.sub(r"\1\2doorward.envoy_api.\3", text)
            if path.suffix == ".pyi":
                # Stubs import modules whole (`import envoy.x as _x`), so uses follow the alias.
                text = text.replace("doorward.envoy_api.doorward.envoy_api.", "doorward.envoy_api.")
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(text)
    for folder in [entry for entry in target.rglob("*") if entry.is_dir() and entry.name != "__pycache__"]:
        (folder / "__init__.py").write_text('"""Generated; see tools/build_hook.py."""\n')


def _closure() -> list[descriptor_pb2.FileDescriptorProto]:
    """The descriptors of ``ENVOY_ROOTS`` and all that they import, dependencies first."""
    order: list[descriptor_pb2.FileDescriptorProto] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        file = _external_descriptor(name) if EXTERNAL.match(name) else _xds_descriptor(name)
        for dependency in file.dependency:
            visit(dependency)
        order.append(file)

    for root in ENVOY_ROOTS:
        visit(root + ".proto")
    return order


def _external_descriptor(name: str) -> descriptor_pb2.FileDescriptorProto:
    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


def _xds_descriptor(name: str) -> descriptor_pb2.FileDescriptorProto:
    wanted = name.removesuffix(".proto") + "_pb2.py"
    files = importlib.metadata.files("xds-protos") or []
    path = next((file.locate() for file in files if str(file) == wanted), None)
    if path is None:
        raise SystemExit(f"xds-protos holds no `{name}`")
    source = Path(str(path)).read_text()
    match = re.search(r"AddSerializedFile\((b'(?:[^'\\]|\\.)*'|b\"(?:[^\"\\]|\\.)*\")\)", source, re.DOTALL)
    if match is None:
        raise SystemExit(f"`{wanted}` of xds-protos carries no serialized descriptor")
    return descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(match.group(1)))


def _module_path(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the generator environment lacks `{name}`")
    return str(Path(spec.origin).parent)


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make generate` runs this file without hatchling
    pass
else:

    class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own generic
        """Called by hatchling before a wheel or an editable install is made."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, object]) -> None:
            """Generate unless the tree is current already (a wheel from a prepared tree)."""
            del version, build_data
            if not is_current():
                generate()


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if is_current() else 1)
    if not is_current():
        generate()
        print("generated doorward.api and doorward.envoy_api")
