import java.util.Arrays;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;

/**
 * Runs SQL statements, of which the last is the job. The first argument is the last of the numbers in the table
 * "numbers", or 0 if a statement makes that table. (The datagen connector makes no sequence longer than an int.)
 */
public final class SqlAggregate {
    public static void main(String[] arguments) {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        // What a user who cares for speed would set: records are not copied between chained functions.
        env.getConfig().enableObjectReuse();
        StreamTableEnvironment tables = StreamTableEnvironment.create(env);
        long last = Long.parseLong(arguments[0]);
        if (last > 0) {
            Schema schema = Schema.newBuilder()
                    .columnByExpression("n", "f0")
                    .column("f0", DataTypes.BIGINT().notNull())
                    .build();
            tables.createTemporaryView("numbers", env.fromSequence(0, last).returns(Types.LONG), schema);
        }
        for (String statement : Arrays.asList(arguments).subList(1, arguments.length)) {
            tables.executeSql(statement);
        }
    }
}
