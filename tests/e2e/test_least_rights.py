"""Keys that lack a right which a run can do without."""

import pytest

from tests.s3.rights import keys_with

from .conftest import NewNode
from .helpers import FAKE, Bucket, Task

pytestmark = pytest.mark.slow


def test_keys_that_may_not_delete_hold_up_no_checkpoint_and_the_task_gets_its_result(
    s3_task: Task, new_node: NewNode
) -> None:
    assert isinstance(s3_task.view, Bucket)
    rights = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload")
    keys = keys_with(s3_task.view.server, *rights, bucket=s3_task.view.name)
    node = new_node(s3_task, SYNCD_KEEP="2", SYNCD_BACKLOG="9", SYNCD_SCAN_INTERVAL="0.2", **keys)
    life = node.run([*FAKE, "--steps", "12", "--every", "2", "--pause", "0.1"])
    assert life.code(60) == 0
    committed = node.committed()
    assert len(committed) > 2
    assert committed[-1] == 12
    there = {key for key in s3_task.listing() if "/manifests/checkpoint-" in key}
    assert there == {f"attempt-0001/manifests/checkpoint-{step}.json" for step in committed}
    assert len(node.events("not_deleted")) == 1
    s3_task.verify()
