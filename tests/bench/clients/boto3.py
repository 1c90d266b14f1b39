"""boto3's managed transfers as they come: ten threads, parts of 8 MiB."""

from pathlib import Path

import boto3

from tests.bench.clients.common import Task, measured

task = Task.read()
client = boto3.client("s3", endpoint_url=task.endpoint)
with measured():
    for name in task.names:
        if task.op == "put":
            client.upload_file(str(Path(task.path, name)), task.bucket, task.key + name)
        else:
            client.download_file(task.bucket, task.key + name, str(Path(task.path, name)))
