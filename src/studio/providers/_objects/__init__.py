"""The storage verbs and what they stand on: `s3`, `minio`, `gcs` and `azure_blob` share it."""
