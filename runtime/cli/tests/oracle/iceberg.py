"""An Iceberg client that is not ours, pyiceberg: what a table holds.

WEIR_TEST_ICEBERG_DUCKDB, if it is set, is the folder of another, which must read the same (iceberg_duckdb.py).

CATALOG is what pyiceberg has to know of the catalog, as JSON.

`iceberg.py read CATALOG TABLE FOLDER` replaces FOLDER by the table's rows as JSON lines, and prints what its snapshots say
as JSON. Fails if the table is not as the sink should leave it: a file twice, a checkpoint in two snapshots, a file in
another partition than its rows, bounds or counts that are not those of its rows.
`iceberg.py append CATALOG TABLE COUNT` appends COUNT rows of somebody else's, one snapshot for each, with negative ids.
`iceberg.py create CATALOG TABLE` makes the table that the tests of types and partitions write to."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import load_catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError


def plain(table):
    """As our JSON has it: timestamps without a zone, in UTC."""
    fields = []
    for field in table.schema:
        is_zoned = pa.types.is_timestamp(field.type) and field.type.tz
        fields.append(field.with_type(pa.timestamp("us")) if is_zoned else field)
    return table.cast(pa.schema(fields))


def check_files(table):
    specs, schema = table.specs(), table.schema()
    paths = set()
    for task in table.scan().plan_files():
        file = task.file
        assert file.file_path not in paths, f"{file.file_path} is in the table twice"
        paths.add(file.file_path)
        with table.io.new_input(file.file_path).open() as opened:
            rows = pq.read_table(opened)
        assert rows.num_rows == file.record_count, file.file_path
        assert len(table.io.new_input(file.file_path)) == file.file_size_in_bytes, file.file_path
        for name in rows.column_names:
            field = schema.find_field(name)
            column = rows.column(name)
            nulls = file.null_value_counts.get(field.field_id)
            assert nulls == column.null_count, f"{file.file_path}: {name} has {column.null_count} NULLs, not {nulls}"
            assert file.value_counts.get(field.field_id) == rows.num_rows, file.file_path
            for bounds, least in [(file.lower_bounds, True), (file.upper_bounds, False)]:
                if field.field_id in bounds:
                    bound = from_bytes(field.field_type, bounds[field.field_id])
                    values = [value.as_py() if not pa.types.is_timestamp(value.type) and not pa.types.is_date(value.type)
                              and not pa.types.is_time(value.type) else value.value
                              for value in column if value.is_valid]
                    worst = min(values) if least else max(values)
                    assert (bound <= worst) if least else (bound >= worst), f"{file.file_path}: {name}: {bound} {worst}"
        for place, field in enumerate(specs[file.spec_id].fields):
            source = schema.find_field(field.source_id)
            transform = field.transform.transform(source.field_type)
            found = set()
            for value in rows.column(source.name):
                if pa.types.is_timestamp(value.type) or pa.types.is_date(value.type) or pa.types.is_time(value.type):
                    found.add(transform(value.value if value.is_valid else None))
                else:
                    found.add(transform(value.as_py()))
            told = file.partition[place]
            assert found == {told}, f"{file.file_path}: {field.name} is {told}, and its rows have {found}"


def check_with_duckdb(table, rows, target):
    folder = os.environ.get("WEIR_TEST_ICEBERG_DUCKDB")
    if not folder or table.current_snapshot() is None:
        return
    # In no folder that is compared.
    file = target.with_name(f".{target.name}.parquet")
    pq.write_table(rows, file)
    script = pathlib.Path(__file__).with_name("iceberg_duckdb.py")
    arguments = [table.metadata_location, json.loads(properties)["s3.endpoint"], file]
    done = subprocess.run([sys.executable, "-B", script, *arguments], env={**os.environ, "PYTHONPATH": folder}, text=True,
                          stderr=subprocess.PIPE)
    file.unlink()
    assert done.returncode == 0, done.stderr


def read(table, folder):
    target = pathlib.Path(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    check_files(table)
    rows = table.scan().to_arrow()
    check_with_duckdb(table, rows, target)
    rows = plain(rows)
    duckdb.sql(f"COPY (SELECT * FROM rows) TO '{target / 'rows.jsonl'}' (FORMAT json)")
    summaries = [dict(snapshot.summary.additional_properties) for snapshot in table.snapshots()]
    ours = [(s["weir.sink"], s["weir.checkpoint"]) for s in summaries if "weir.checkpoint" in s]
    assert len(ours) == len(set(ours)), f"a checkpoint has two snapshots: {ours}"
    total = table.current_snapshot().summary.additional_properties.get("total-records") if summaries else "0"
    assert total == str(rows.num_rows), f"the table says {total} rows and has {rows.num_rows}"
    print(json.dumps(summaries))


def append(table, count):
    for number in range(count):
        columns = {
            field.name: pa.array([-1 - number if field.name == "id" else None], field.type) for field in table.schema().as_arrow()
        }
        rows = pa.table(columns, schema=table.schema().as_arrow())
        while True:
            try:
                table.append(rows)
                break
            except CommitFailedException:
                table.refresh()


def create(catalog, name):
    from pyiceberg import types as t
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import parse_transform

    columns = {
        "id": t.LongType(), "flag": t.BooleanType(), "small": t.LongType(), "n": t.IntegerType(), "ratio": t.DoubleType(),
        "price": t.DecimalType(12, 2), "name": t.StringType(), "raw": t.BinaryType(), "day": t.DateType(),
        "clock": t.TimeType(), "at": t.TimestamptzType(), "local": t.TimestampType(), "unused": t.StringType(),
    }
    schema = Schema(*(t.NestedField(id, name, kind, required=name == "id") for id, (name, kind) in enumerate(columns.items(), 3)))
    wanted = [("flag", "identity"), ("name", "truncate[2]"), ("id", "bucket[3]"), ("price", "bucket[2]"), ("at", "month"), ("day", "year")]
    fields = [PartitionField(schema.find_field(column).field_id, 1000 + place, parse_transform(transform), f"{column}_{place}")
              for place, (column, transform) in enumerate(wanted)]
    try:
        catalog.create_namespace(name.rsplit(".", 1)[0])
    except NamespaceAlreadyExistsError:
        pass
    catalog.create_table(name, schema, partition_spec=PartitionSpec(*fields))


command, properties, name = sys.argv[1:4]
opened = load_catalog("test", **json.loads(properties))
if command == "read":
    read(opened.load_table(name), sys.argv[4])
elif command == "append":
    append(opened.load_table(name), int(sys.argv[4]))
else:
    create(opened, name)
