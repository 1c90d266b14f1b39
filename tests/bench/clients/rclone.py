"""rclone as it comes: four transfers, parts of 5 MiB."""

import os

from tests.bench.clients.common import Task, run_command

task = Task.read()
os.environ |= {
    "RCLONE_CONFIG": "",  # no file
    "RCLONE_S3_PROVIDER": "Minio",
    "RCLONE_S3_ENV_AUTH": "true",
    "RCLONE_S3_ENDPOINT": task.endpoint,
    "RCLONE_S3_REGION": os.environ["AWS_REGION"],
}
remote = f":s3:{task.bucket}/{task.key}"
run_command(["rclone", "copy", *((task.path, remote) if task.op == "put" else (remote, task.path))])
