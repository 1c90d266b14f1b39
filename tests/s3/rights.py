"""Keys of a real MinIO that may do less than all: its STS narrows its own by a policy."""

import json
from collections.abc import Mapping

from botocore.session import Session

from syncd.testing.servers import Minio


def keys_with(minio: Minio, *actions: str, bucket: str = "bucket") -> dict[str, str]:
    """The environment's keys that may do these actions, such as `s3:PutObject`, in a bucket and to all its objects."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resources}
    return keys_by(minio, {"Version": "2012-10-17", "Statement": [statement]})


def keys_by(minio: Minio, policy: Mapping[str, object]) -> dict[str, str]:
    """The environment's keys that may do what a policy allows."""
    sts = Session().create_client(
        "sts",
        endpoint_url=minio.endpoint,
        region_name="us-east-1",
        aws_access_key_id=minio.key_id,
        aws_secret_access_key=minio.secret,
    )
    try:
        any_role = "arn:aws:iam::any:role/any"
        keys = sts.assume_role(RoleArn=any_role, RoleSessionName="test", Policy=json.dumps(policy))["Credentials"]
    finally:
        sts.close()
    return {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }
