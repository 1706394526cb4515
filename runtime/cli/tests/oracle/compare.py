"""Compares what a job wrote with what DuckDB makes of the same input: `compare.py SPEC.json`.

SPEC: `tables` [{name, files (a glob), format (json or csv), columns [[name, type]]}], `setup` (SQL that DuckDB runs
first), `checks` [{name, sql, change_column (or null), mode, at_least, runs [{label, folder or
rows}]}].

A run's folder holds files of JSON lines; or the run has `rows`, SQL that reads what it wrote. With a change column its rows are a changelog, which is materialised: the
result is the multiset that is left when every -U and -D has taken its row back.
Modes: `exact` compares multisets of rows, floats by tolerance. `no loss` asks that every expected row is there, as
often as expected or more. `at least` asks that for every expected row there is one that agrees in all columns but
those of `at_least`, and is not less in these.
"""

import collections
import datetime
import decimal
import json
import math
import pathlib
import sys

import duckdb

SHOWN = 8
TYPES = {"VARCHAR": "VARCHAR", "BYTES": "BLOB"}


def main():
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    for table in spec["tables"]:
        create_table(connection, table)
    if spec.get("setup"):
        connection.execute(spec["setup"])
    failures = []
    for check in spec["checks"]:
        cursor = connection.execute(check["sql"])
        columns = [(name, str(kind)) for name, kind, *_ in cursor.description]
        expected = [tuple(canonical(value, kind) for value, (_, kind) in zip(row, columns)) for row in cursor.fetchall()]
        if not expected and not check.get("may_be_empty"):
            failures.append(f"{check['name']}: the oracle expects no rows at all, so the case shows nothing")
        for run in check["runs"]:
            problem = compare(connection, check, columns, expected, run)
            if problem:
                failures.append(f"{check['name']}, {run['label']}: {problem}")
    if failures:
        print("\n".join(failures))
        sys.exit(1)


def create_table(connection, table):
    columns = ", ".join(f"'{name}': '{TYPES.get(kind, kind)}'" for name, kind in table["columns"])
    if table["format"] == "json":
        read = f"read_json('{table['files']}', format = 'newline_delimited', columns = {{{columns}}})"
    else:
        read = f"read_csv('{table['files']}', header = true, columns = {{{columns}}})"
    connection.execute(f"CREATE TABLE {table['name']} AS SELECT * FROM {read}")


def compare(connection, check, columns, expected, run):
    """What is wrong with a run's rows; None if nothing is."""
    try:
        if "rows" in run:
            records = connection.execute(run["rows"]).fetchall()
            rows = [(tuple(canonical(value, kind) for value, (_, kind) in zip(record, columns)), 1) for record in records]
        else:
            rows = read_rows(pathlib.Path(run["folder"]), columns, check["change_column"])
        if check["mode"] == "at least":
            return compare_at_least(columns, expected, [row for row, weight in rows if weight > 0], check["at_least"])
        counts = collections.Counter()
        for row, weight in rows:
            counts[row] += weight
    except ValueError as error:
        return str(error)
    negative = [row for row, count in counts.items() if count < 0]
    if negative:
        return f"{len(negative)} rows are taken back more often than given, for instance {show(columns, negative[0])}"
    actual = list(counts.elements())
    surplus, missing = difference(columns, expected, actual)
    if check["mode"] == "no loss":
        surplus = []
    if not surplus and not missing:
        return None
    lines = [f"{len(expected)} rows expected, {len(actual)} found; {len(missing)} missing, {len(surplus)} surplus"]
    lines += [f"  missing {show(columns, row)}" for row in missing[:SHOWN]]
    lines += [f"  surplus {show(columns, row)}" for row in surplus[:SHOWN]]
    return "\n".join(lines)


def compare_at_least(columns, expected, actual, names):
    measured = [index for index, (name, _) in enumerate(columns) if name in names]
    best = {}
    for row in actual:
        key = tuple(value for index, value in enumerate(row) if index not in measured)
        values = [row[index] for index in measured]
        best[key] = [max(pair) for pair in zip(best[key], values)] if key in best else values
    for row in expected:
        key = tuple(value for index, value in enumerate(row) if index not in measured)
        if key not in best:
            return f"lost: {show(columns, row)}"
        if any(found < row[index] for found, index in zip(best[key], measured)):
            return f"lost a part: expected at least {show(columns, row)}, found {best[key]}"
    return None


def read_rows(folder, columns, change_column):
    """(row, +1 or -1) for each line of the finished files; a ValueError says which line is not as it should be."""
    names = {name for name, _ in columns}
    weights = {"+I": 1, "+U": 1, "-U": -1, "-D": -1}
    rows = []
    for path in finished_files(folder):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path.name}:{number}: not JSON ({error}): {line[:200]}") from error
            weight = 1
            if change_column:
                kind = record.pop(change_column, None)
                if kind not in weights:
                    raise ValueError(f"{path.name}:{number}: `{kind}` is no change kind: {line[:200]}")
                weight = weights[kind]
            if set(record) != names:
                raise ValueError(f"{path.name}:{number}: columns {sorted(record)}, expected {sorted(names)}")
            rows.append((tuple(canonical(record[name], kind) for name, kind in columns), weight))
    return rows


def finished_files(folder):
    """What a reader may see: a file that is not finished is hidden."""
    def is_hidden(path):
        return any(part.startswith(".") for part in path.relative_to(folder).parts)
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path))


def canonical(value, kind):
    """The value as the oracle's type has it, whichever engine it came from."""
    try:
        return converted(value, kind)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is not a {kind}") from error


def converted(value, kind):
    if value is None:
        return None
    if kind in ("DOUBLE", "FLOAT"):
        return float(value)
    if kind.startswith("DECIMAL"):
        return decimal.Decimal(str(value)).normalize()
    if kind.startswith("TIMESTAMP"):
        moment = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(value)
        return moment.replace(tzinfo=None)
    if kind == "DATE":
        return value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)
    if kind == "BOOLEAN":
        if not isinstance(value, bool):
            raise ValueError
        return value
    if kind.endswith("INT") or kind.endswith("INTEGER"):
        # A number, not its text, and not a float that happens to be whole.
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        return value
    if not isinstance(value, str):
        raise ValueError
    return value


def difference(columns, expected, actual):
    """(surplus, missing) as multisets; floats agree within a relative 1e-9."""
    surplus, missing = collections.Counter(actual), collections.Counter(expected)
    common = surplus & missing
    surplus, missing = list((surplus - common).elements()), list((missing - common).elements())
    floats = [index for index, (_, kind) in enumerate(columns) if kind in ("DOUBLE", "FLOAT")]
    if not floats:
        return surplus, missing
    # What is left may differ in the last digits alone: pair rows that agree in all else.
    waiting = collections.defaultdict(list)
    for row in surplus:
        waiting[exact_part(row, floats)].append(row)
    unmatched = []
    for row in missing:
        candidates = waiting[exact_part(row, floats)]
        match = next((c for c in candidates if all(close(c[index], row[index]) for index in floats)), None)
        if match is None:
            unmatched.append(row)
        else:
            candidates.remove(match)
    return [row for rows in waiting.values() for row in rows], unmatched


def exact_part(row, floats):
    return tuple(value for index, value in enumerate(row) if index not in floats)


def close(left, right):
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(left) and math.isnan(right))


def show(columns, row):
    return "{" + ", ".join(f"{name}: {value}" for (name, _), value in zip(columns, row)) + "}"


main()
