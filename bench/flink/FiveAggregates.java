import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

/** Five counts of the same rows, each by another key: five stateful operators. Arguments: KEYS ROWS_PER_SECOND. */
public final class FiveAggregates {
    private static final int AGGREGATES = 5;

    public static void main(String[] arguments) throws Exception {
        long keys = Long.parseLong(arguments[0]);
        long rowsPerSecond = Long.parseLong(arguments[1]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        env.getConfig().enableObjectReuse();
        DataStream<Long> numbers = env.fromSequence(0, 1_000_000_000_000_000L)
                .uid("numbers")
                .map(new Slow(rowsPerSecond / env.getParallelism()))
                .uid("slow");
        for (int aggregate = 0; aggregate < AGGREGATES; aggregate++) {
            long other = aggregate;
            numbers.keyBy(number -> (number + other) % keys)
                    .process(new Count())
                    .uid("count-" + aggregate)
                    .sinkTo(new DiscardingSink<>())
                    .uid("nowhere-" + aggregate);
        }
        env.execute("five-aggregates");
    }

    private static final class Slow implements MapFunction<Long, Long> {
        private final Pace pace;

        Slow(long rowsPerSecond) {
            this.pace = new Pace(rowsPerSecond);
        }

        @Override
        public Long map(Long number) throws InterruptedException {
            pace.await();
            return number;
        }
    }

    private static final class Count extends KeyedProcessFunction<Long, Long, Long> {
        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(Long number, Context context, Collector<Long> out) throws Exception {
            Long before = count.value();
            long after = before == null ? 1 : before + 1;
            count.update(after);
            out.collect(after);
        }
    }
}
