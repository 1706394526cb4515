"""An S3 client that is not ours: `s3.py ENDPOINT BUCKET PREFIX FOLDER` replaces FOLDER by the objects below PREFIX, and prints
the keys of the uploads that are under way there."""

import pathlib
import shutil
import sys

import boto3

endpoint, bucket, prefix, folder = sys.argv[1:]
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="testkey",
    aws_secret_access_key="testsecret",
)
target = pathlib.Path(folder)
shutil.rmtree(target, ignore_errors=True)
target.mkdir(parents=True)
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
    for item in page.get("Contents", []):
        path = target / item["Key"][len(prefix) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(path))
for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix + "/"):
    for upload in page.get("Uploads", []):
        print(upload["Key"])
