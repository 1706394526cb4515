import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs the SQL statements that it is given, one per argument. The last one is the job. */
public final class SqlAggregate {
    public static void main(String[] statements) {
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        // As with object reuse in the DataStream job: what a user who cares for speed would set.
        tables.getConfig().set("pipeline.object-reuse", "true");
        for (String statement : statements) {
            tables.executeSql(statement);
        }
    }
}
