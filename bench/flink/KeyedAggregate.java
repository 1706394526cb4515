import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

/** Numbers, count and sum by key, nowhere. Arguments: KEYS sequence|mixed LAST_NUMBER. */
public final class KeyedAggregate {
    public static void main(String[] arguments) throws Exception {
        long keys = Long.parseLong(arguments[0]);
        boolean mixed = arguments[1].equals("mixed");
        long last = Long.parseLong(arguments[2]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        // What a user who cares for speed would set: records are not copied between chained functions.
        env.getConfig().enableObjectReuse();
        env.fromSequence(0, last)
                .uid("numbers")
                .map(new KeyOf(keys, mixed))
                .uid("key")
                .keyBy(row -> row.f0)
                .process(new CountAndSum())
                .uid("totals")
                .sinkTo(new DiscardingSink<>())
                .uid("nowhere");
        env.execute("keyed-aggregate");
    }

    private static final class KeyOf implements MapFunction<Long, Tuple2<Long, Long>> {
        private final long keys;
        private final boolean mixed;

        KeyOf(long keys, boolean mixed) {
            this.keys = keys;
            this.mixed = mixed;
        }

        @Override
        public Tuple2<Long, Long> map(Long number) {
            return Tuple2.of((mixed ? mix(number) >>> 1 : number) % keys, number);
        }

        /** An order without pattern. */
        private static long mix(long number) {
            long bits = number * 0x9E3779B97F4A7C15L;
            bits = (bits ^ (bits >>> 30)) * 0xBF58476D1CE4E5B9L;
            return bits ^ (bits >>> 27);
        }
    }

    private static final class CountAndSum
            extends KeyedProcessFunction<Long, Tuple2<Long, Long>, Tuple3<Long, Long, Long>> {
        private transient ValueState<Tuple2<Long, Long>> totals;

        @Override
        public void open(OpenContext context) {
            TypeInformation<Tuple2<Long, Long>> type = TypeInformation.of(new TypeHint<Tuple2<Long, Long>>() {});
            totals = getRuntimeContext().getState(new ValueStateDescriptor<>("totals", type));
        }

        @Override
        public void processElement(
                Tuple2<Long, Long> row, Context context, Collector<Tuple3<Long, Long, Long>> out) throws Exception {
            Tuple2<Long, Long> before = totals.value();
            Tuple2<Long, Long> after =
                    before == null ? Tuple2.of(1L, row.f1) : Tuple2.of(before.f0 + 1, before.f1 + row.f1);
            totals.update(after);
            out.collect(Tuple3.of(row.f0, after.f0, after.f1));
        }
    }
}
