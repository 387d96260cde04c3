"""A client in Python over mutual TLS: writes a key, and prints what it reads back."""

import sys
import tempfile
from pathlib import Path

import grpc
import grpc_tools
from grpc_tools import protoc

address, token = sys.argv[1:]
proto = Path(__file__).parents[2] / "proto"
made = tempfile.mkdtemp()
well_known = Path(grpc_tools.__file__).parent / "_proto"
made_well = protoc.main(["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={made}", f"--grpc_python_out={made}",
                         str(proto / "tagway/v1/config.proto")])
assert made_well == 0
sys.path.insert(0, made)
from tagway.v1 import config_pb2, config_pb2_grpc  # noqa: E402

credentials = grpc.ssl_channel_credentials(
    Path("authority.pem").read_bytes(),
    Path("client.key").read_bytes(),
    Path("client.pem").read_bytes(),
)
with grpc.secure_channel(address, credentials) as channel:
    configs = config_pb2_grpc.ConfigServiceStub(channel)
    metadata = [("authorization", f"Bearer {token}")]
    key = "tenant_config_python"
    configs.PutConfig(config_pb2.PutConfigRequest(key=key, value=b"from python"), metadata=metadata, timeout=30)
    answer = configs.GetConfig(config_pb2.GetConfigRequest(key=key), metadata=metadata, timeout=30)
    print(answer.config.value.decode())
