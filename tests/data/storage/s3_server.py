"""moto's S3 server in a process of its own, and a proxy of faults in front of it."""

from server_process import server_process

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def s3_server():
    """Yield the address of an empty store on loopback."""

    def options(port):
        return ["-H", "127.0.0.1", "-p", str(port)]

    return server_process("moto.server", options, ready="/moto-api/", env=KEYS)


def upload(folder, bucket, endpoint):
    """Upload a folder into a new bucket."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        client.put_object(
            Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes()
        )
