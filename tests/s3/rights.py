"""Keys of a real MinIO that may do less than all: of a user made for them, to whom a policy is attached, as
`deploy/s3/README.md` says."""

import secrets
from collections.abc import Mapping

import urllib3
from botocore.config import Config
from botocore.session import Session
from minio import MinioAdmin
from minio.credentials import StaticProvider

from syncd.testing.servers import SECRETS, Minio


def keys_with(minio: Minio, *actions: str, bucket: str = "bucket") -> dict[str, str]:
    """The environment's keys that may do these actions, such as `s3:PutObject`, in a bucket and to all its objects."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resources}
    return keys_by(minio, {"Version": "2012-10-17", "Statement": [statement]})


def keys_by(minio: Minio, policy: Mapping[str, object]) -> dict[str, str]:
    """The environment's keys of a new user who may do what a policy allows, and nothing else."""
    user, secret = f"user-{secrets.token_hex(6)}", secrets.token_hex(20)
    SECRETS.append(secret)
    with urllib3.PoolManager(cert_reqs="CERT_NONE") as pool:  # not the proxy of the environment
        admin = MinioAdmin(
            endpoint=minio.endpoint.partition("://")[2],
            credentials=StaticProvider(minio.key_id, minio.secret),
            secure=minio.endpoint.startswith("https"),
            http_client=pool,
        )
        admin.user_add(user, secret)
        admin.policy_add(user, policy=dict(policy))
        admin.attach_policy([user], user=user)
    return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret}


def temporary_keys(minio: Minio) -> dict[str, str]:
    """The environment's keys that end: MinIO's STS makes them of its own."""
    sts = Session().create_client(
        "sts", endpoint_url=minio.endpoint, region_name="us-east-1", config=Config(proxies={}),
        aws_access_key_id=minio.key_id, aws_secret_access_key=minio.secret,
    )  # fmt: skip
    try:
        keys = sts.assume_role(RoleArn="arn:aws:iam::any:role/any", RoleSessionName="test")["Credentials"]
    finally:
        sts.close()
    names = {
        "AccessKeyId": "AWS_ACCESS_KEY_ID",
        "SecretAccessKey": "AWS_SECRET_ACCESS_KEY",
        "SessionToken": "AWS_SESSION_TOKEN",
    }
    return {ours: keys[theirs] for theirs, ours in names.items()}
