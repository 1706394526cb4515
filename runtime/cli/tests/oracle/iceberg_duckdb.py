"""A second Iceberg client that is not ours, DuckDB's: whether it reads the same rows as the first.

`iceberg_duckdb.py METADATA ENDPOINT ROWS`: METADATA is the address of a table's current metadata file, ENDPOINT the store's,
ROWS a Parquet file with what another client read. Runs with DuckDB of the version that its extensions are of (PYTHONPATH)."""

import importlib
import pathlib
import sys

import duckdb

metadata, endpoint, rows = sys.argv[1:]
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
for name in ["avro", "httpfs", "iceberg"]:
    folder = pathlib.Path(importlib.import_module(f"duckdb_extension_{name}").__file__).parent
    connection.execute(f"LOAD '{next(folder.rglob('*.duckdb_extension'))}'")
connection.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID 'testkey', SECRET 'testsecret', REGION 'us-east-1', URL_STYLE 'path', USE_SSL false, "
    f"ENDPOINT '{endpoint.removeprefix('http://')}')"
)
columns = ", ".join(f'"{name}"' for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM '{rows}'").fetchall())
ours = f"SELECT {columns} FROM iceberg_scan('{metadata}')"
theirs = f"SELECT {columns} FROM '{rows}'"
for what, some in [("too many", f"{ours} EXCEPT ALL {theirs}"), ("too few", f"{theirs} EXCEPT ALL {ours}")]:
    found = connection.execute(f"SELECT CAST(found AS VARCHAR) FROM ({some}) found LIMIT 3").fetchall()
    if found:
        sys.exit(f"DuckDB reads other rows of {metadata} than pyiceberg, {what}: {found}")
