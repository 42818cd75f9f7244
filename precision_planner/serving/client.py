"""One running server: what its models take and give, and requests to them by HTTP (binary or JSON) or gRPC.

16-bit floats travel as raw little-endian bytes: tritonclient gives and takes numpy's float16 and ml_dtypes' bfloat16.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from precision_planner._extras import require
from precision_planner.errors import ServerError
from precision_planner.serving.refusals import explain
from precision_planner.serving.tensors import Interface, ServedTensor

DEFAULT_PORTS = {"http": 8000, "grpc": 8001}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens.

    Attributes:
      place: host and port.
      protocol: 'http' or 'grpc'.
      secure: TLS.
    """

    place: str
    protocol: str
    secure: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}{'s' if self.secure else ''}://{self.place}"

    @property
    def host(self) -> str:
        """Without the port."""
        return self.place.rpartition(":")[0]


def parse_address(url: str, *, grpc: bool = False) -> Address:
    """Read `host[:port]`, with `http://`, `https://`, `grpc://` or `grpcs://` before it or not.

    Args:
      url: as given.
      grpc: the protocol where the URL does not say it, and the default port with it: 8001 instead of 8000.

    Raises:
      ServerError: another scheme, a path, or no port where one should be.
    """
    scheme, slashes, place = url.rpartition("://")
    protocol = {"http": "http", "https": "http", "grpc": "grpc", "grpcs": "grpc"}.get(scheme) if slashes else None
    if slashes and protocol is None:
        raise ServerError(f"{url}: the server speaks http, https, grpc or grpcs, not {scheme}")
    if protocol == "http" and grpc:
        raise ServerError(f"{url} is HTTP, and --grpc was given; give the gRPC port, as in localhost:8001")
    protocol = protocol or ("grpc" if grpc else "http")
    place = place.rstrip("/")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(DEFAULT_PORTS[protocol])
    if not host or "/" in place or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ServerError(f"{url} is not HOST:PORT; give for example localhost:{DEFAULT_PORTS[protocol]}")
    return Address(f"{host}:{port}", protocol, scheme in ("https", "grpcs"))


class Server:
    """A connection to one server; a context manager, for clients are to be closed before a server stops."""

    def __init__(self, address: Address, *, timeout_s: float = 30.0) -> None:
        """Open it.

        Args:
          address: see `parse_address`.
          timeout_s: for every request.

        Raises:
          MissingExtraError: tritonclient is not installed.
        """
        self.address = address
        self.timeout_s = timeout_s
        self._module = require(f"tritonclient.{address.protocol}", extra="triton", purpose="talking to Triton")
        options: dict[str, Any] = {"ssl": True} if address.secure else {}
        if address.protocol == "http":
            options |= {"connection_timeout": timeout_s, "network_timeout": timeout_s}
        self._client = self._module.InferenceServerClient(address.place, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def interface(self, model: str) -> Interface:
        """What a model takes and gives, as the server says it, free axes as None.

        Raises:
          ServerError: no server, no such model, or one that is not ready.
        """
        ready = self._call("is_model_ready", model, model)
        if not ready:
            # metadata of a model that is not loaded says why, or that there is none
            self._call("get_model_metadata", model, model)
            raise ServerError(explain("Request for unknown model is not ready", model, str(self.address)))
        data = self._call("get_model_metadata", model, model)
        return Interface(*(self._tensors(data, kind) for kind in ("inputs", "outputs")))

    def config(self, model: str) -> Mapping[str, Any]:
        """The model's configuration as JSON has it: max_batch_size and more."""
        found = self._call("get_model_config", model, model)
        if self.address.protocol == "http":
            return dict(found)
        from google.protobuf import json_format

        data = json_format.MessageToDict(found, preserving_proto_field_name=True)
        return dict(data.get("config", data))

    def statistics(self, model: str) -> Mapping[str, Any]:
        """What the server counted for a model since it started: the statistics extension's `inference_stats`."""
        found = self._call("get_inference_statistics", model, model)
        if self.address.protocol == "http":
            stats = found["model_stats"]
        else:
            from google.protobuf import json_format

            stats = json_format.MessageToDict(found, preserving_proto_field_name=True)["model_stats"]
        return dict(stats[-1])

    def infer(
        self, model: str, arrays: Mapping[str, np.ndarray], outputs: tuple[str, ...] = (), *, as_json: bool = False
    ) -> dict[str, np.ndarray]:
        """One request.

        Args:
          model: its name.
          arrays: input name -> array, sent in the type that it has.
          outputs: which; empty takes all.
          as_json: by HTTP, numbers as JSON instead of binary data, as clients without the extension send them.

        Raises:
          ServerError: the server refused, cannot be reached, or took too long; the message says what to do.
        """
        tr = self._module
        binary = {} if self.address.protocol == "grpc" else {"binary_data": not as_json}
        utils = require("tritonclient.utils", extra="triton", purpose="talking to Triton")
        given = []
        for name, array in arrays.items():
            wire = utils.np_to_triton_dtype(array.dtype)
            if wire is None:
                raise ServerError(f"input '{name}' is {array.dtype}, which Triton has no type for")
            entry = tr.InferInput(name, list(array.shape), wire)
            try:
                entry.set_data_from_numpy(np.ascontiguousarray(array), **binary)
            except utils.InferenceServerException as error:
                raise ServerError(explain(str(error), model, str(self.address))) from None
            given.append(entry)
        wanted = [tr.InferRequestedOutput(name, **binary) for name in outputs]
        limit: dict[str, Any]
        limit = {"client_timeout": self.timeout_s} if self.address.protocol == "grpc" else {}
        result = self._call("infer", model, model, given, outputs=wanted or None, **limit)
        response = result.get_response()
        names = (
            [entry["name"] for entry in response["outputs"]]
            if self.address.protocol == "http"
            else [entry.name for entry in response.outputs]
        )
        return {name: np.asarray(result.as_numpy(name)) for name in names}

    def _tensors(self, data: Any, kind: str) -> tuple[ServedTensor, ...]:
        entries = data[kind] if self.address.protocol == "http" else getattr(data, kind)
        found = []
        for entry in entries:
            http = isinstance(entry, Mapping)
            name = entry["name"] if http else entry.name
            wire = entry["datatype"] if http else entry.datatype
            shape = [int(size) for size in (entry["shape"] if http else entry.shape)]
            found.append(ServedTensor(name, wire, tuple(None if size < 0 else size for size in shape)))
        return tuple(found)

    def _call(self, method: str, model: str, *arguments: Any, **options: Any) -> Any:
        """Call the client; its errors become one line."""
        utils = require("tritonclient.utils", extra="triton", purpose="talking to Triton")
        if self.address.protocol == "grpc" and method != "infer":
            options["client_timeout"] = self.timeout_s
        try:
            return getattr(self._client, method)(*arguments, **options)
        except utils.InferenceServerException as error:
            text = f"{error.status() or ''} {error.message()}".strip()
            raise ServerError(explain(text, model, str(self.address), self.timeout_s)) from None
        except TimeoutError:
            raise ServerError(explain("timed out", model, str(self.address), self.timeout_s)) from None
        except OSError as error:
            raise ServerError(explain(f"connection failed: {error}", model, str(self.address))) from None
        except (ValueError, http.client.HTTPException) as error:
            # what answers there is no HTTP, or no JSON
            raise ServerError(explain(f"{error}", model, str(self.address))) from None
