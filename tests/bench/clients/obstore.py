"""obstore (Rust's object_store) as it comes: twelve parts of 5 MiB at once; one stream for a get."""

import os
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.bench.clients.common import Task, ca, credentials, measured

task = Task.read()
key_id, secret = credentials()
options = {"root_certificate": Path(ca()).read_bytes()} if task.tls else {"allow_http": True}
store = S3Store(
    task.bucket,
    endpoint=task.endpoint,
    region=os.environ["AWS_REGION"],
    access_key_id=key_id,
    secret_access_key=secret,
    client_options=options | {"timeout": "600s"},
)
with measured():
    for name in task.names:
        path = Path(task.path, name)
        if task.op == "put":
            obstore.put(store, task.key + name, path)
        else:
            with path.open("wb") as file:
                for chunk in obstore.get(store, task.key + name):
                    file.write(chunk)
