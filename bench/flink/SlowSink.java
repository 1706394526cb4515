import org.apache.flink.api.common.functions.FilterFunction;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

/** Count and sum by key into a sink that holds everything up. Arguments: KEYS ROWS_PER_SECOND_AND_SUBTASK. */
public final class SlowSink {
    public static void main(String[] arguments) throws Exception {
        long keys = Long.parseLong(arguments[0]);
        long rowsPerSecond = Long.parseLong(arguments[1]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        // What a user who cares for speed would set: records are not copied between chained functions.
        env.getConfig().enableObjectReuse();
        env.fromSequence(0, 1_000_000_000_000_000L)
                .uid("numbers")
                .map(new KeyOf(keys))
                .uid("key")
                .keyBy(row -> row.f0)
                .process(new CountAndSum())
                .uid("totals")
                .filter(new Slow(rowsPerSecond))
                .uid("slow")
                .sinkTo(new DiscardingSink<>())
                .uid("nowhere");
        env.execute("slow-sink");
    }

    private static final class KeyOf implements MapFunction<Long, Tuple2<Long, Long>> {
        private final long keys;

        KeyOf(long keys) {
            this.keys = keys;
        }

        @Override
        public Tuple2<Long, Long> map(Long number) {
            return Tuple2.of(number % keys, number);
        }
    }

    private static final class CountAndSum
            extends KeyedProcessFunction<Long, Tuple2<Long, Long>, Tuple3<Long, Long, Long>> {
        private transient ValueState<long[]> totals;

        @Override
        public void open(OpenContext context) {
            totals = getRuntimeContext().getState(new ValueStateDescriptor<>(
                    "totals", PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO));
        }

        @Override
        public void processElement(
                Tuple2<Long, Long> row, Context context, Collector<Tuple3<Long, Long, Long>> out) throws Exception {
            long[] before = totals.value();
            long[] after = before == null ? new long[] {1, row.f1} : new long[] {before[0] + 1, before[1] + row.f1};
            totals.update(after);
            out.collect(Tuple3.of(row.f0, after[0], after[1]));
        }
    }

    /** Part of the sink's chain, and of its thread. */
    private static final class Slow implements FilterFunction<Tuple3<Long, Long, Long>> {
        private final Pace pace;

        Slow(long rowsPerSecond) {
            this.pace = new Pace(rowsPerSecond);
        }

        @Override
        public boolean filter(Tuple3<Long, Long, Long> row) throws InterruptedException {
            pace.await();
            return true;
        }
    }
}
