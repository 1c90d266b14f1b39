"""The AWS common runtime's S3Client by file path, with CRC-64/NVME sent and checked; its own part size and connections."""

import os
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, ClientTlsContext, DefaultHostResolver, EventLoopGroup, TlsContextOptions
from awscrt.s3 import (
    S3ChecksumAlgorithm,
    S3ChecksumConfig,
    S3ChecksumLocation,
    S3Client,
    S3RequestTlsMode,
    S3RequestType,
    create_default_s3_signing_config,
)

from tests.bench.clients.common import Task, ca, credentials, measured

task = Task.read()
region = os.environ["AWS_REGION"]
signing = create_default_s3_signing_config(
    region=region, credential_provider=AwsCredentialsProvider.new_static(*credentials())
)
tls = {}
if task.tls:
    trust = TlsContextOptions()
    trust.override_default_trust_store_from_path(None, ca())
    tls = {"tls_connection_options": ClientTlsContext(trust).new_connection_options()}
loops = EventLoopGroup()
client = S3Client(
    bootstrap=ClientBootstrap(loops, DefaultHostResolver(loops)),
    region=region,
    signing_config=signing,
    tls_mode=S3RequestTlsMode.ENABLED if task.tls else S3RequestTlsMode.DISABLED,
    **tls,
)


def start(name: str) -> "Future[None]":
    """The future of one file's transfer."""
    headers = HttpHeaders([("Host", urlsplit(task.endpoint).netloc)])
    path, where = str(Path(task.path, name)), f"/{task.bucket}/{task.key}{name}"
    if task.op == "get":
        checks = S3ChecksumConfig(validate_response=True)
        request = HttpRequest("GET", where, headers)
        return client.make_request(
            type=S3RequestType.GET_OBJECT, request=request, recv_filepath=path, checksum_config=checks
        ).finished_future
    headers.add("Content-Length", str(os.stat(path).st_size))
    checks = S3ChecksumConfig(algorithm=S3ChecksumAlgorithm.CRC64NVME, location=S3ChecksumLocation.TRAILER)
    request = HttpRequest("PUT", where, headers)
    return client.make_request(
        type=S3RequestType.PUT_OBJECT, request=request, send_filepath=path, checksum_config=checks
    ).finished_future


with measured():
    for future in [start(name) for name in task.names]:
        future.result()
