import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.FilterFunction;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * A count and sums by key. First each key once, as fast as it goes, then keys without pattern at a fixed rate. Of each
 * so many keys one is printed. Arguments: KEYS SUMS CHANGES_PER_SECOND PRINTED.
 *
 * <p>The source has two splits, whatever the parallelism: it was made for a job that begins with two subtasks.
 */
public final class WideAggregate {
    /** Numbers of a split. */
    private static final long HALF = 500_000_000_000_000L;

    public static void main(String[] arguments) throws Exception {
        long keys = Long.parseLong(arguments[0]);
        int sums = Integer.parseInt(arguments[1]);
        long changesPerSecond = Long.parseLong(arguments[2]);
        long printed = Long.parseLong(arguments[3]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        // What a user who cares for speed would set: records are not copied between chained functions.
        env.getConfig().enableObjectReuse();
        env.fromSequence(0, 2 * HALF - 1)
                .uid("numbers")
                .map(new KeyOf(keys, changesPerSecond / 2))
                .uid("key")
                .keyBy(key -> key)
                .process(new CountAndSums(sums))
                .uid("totals")
                .filter(new OneOf(printed))
                .uid("some")
                .print()
                .uid("out");
        env.execute("wide-aggregate");
    }

    /** The key of a number; behind the first of each key it takes its time. */
    private static final class KeyOf implements MapFunction<Long, Long> {
        private final long keys;
        private final Pace pace;

        KeyOf(long keys, long changesPerSecond) {
            this.keys = keys;
            this.pace = new Pace(changesPerSecond);
        }

        @Override
        public Long map(Long number) throws InterruptedException {
            long half = number / HALF;
            long key = (number % HALF) * 2 + half;
            if (key < keys) {
                return key;
            }
            pace.await();
            return (mix(number) >>> 1) % keys;
        }

        /** An order without pattern. */
        private static long mix(long number) {
            long bits = number * 0x9E3779B97F4A7C15L;
            bits = (bits ^ (bits >>> 30)) * 0xBF58476D1CE4E5B9L;
            return bits ^ (bits >>> 27);
        }
    }

    private static final class CountAndSums extends KeyedProcessFunction<Long, Long, Tuple2<Long, Long>> {
        private final int sums;
        private transient ValueState<long[]> totals;

        CountAndSums(int sums) {
            this.sums = sums;
        }

        @Override
        public void open(OpenContext context) {
            totals = getRuntimeContext().getState(new ValueStateDescriptor<>(
                    "totals", PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO));
        }

        @Override
        public void processElement(Long key, Context context, Collector<Tuple2<Long, Long>> out) throws Exception {
            long[] before = totals.value();
            // A new one: a checkpoint may still be writing the other.
            long[] after = before == null ? new long[sums + 1] : before.clone();
            after[0] += 1;
            for (int sum = 0; sum < sums; sum++) {
                after[sum + 1] += key + sum;
            }
            totals.update(after);
            out.collect(Tuple2.of(key, after[0]));
        }
    }

    private static final class OneOf implements FilterFunction<Tuple2<Long, Long>> {
        private final long printed;

        OneOf(long printed) {
            this.printed = printed;
        }

        @Override
        public boolean filter(Tuple2<Long, Long> row) {
            return row.f0 % printed == 0;
        }
    }
}
