import java.io.Serializable;

/** Rows at a fixed rate. It holds its thread up for two milliseconds at a time, so that barriers wait no longer. */
final class Pace implements Serializable {
    private static final long serialVersionUID = 1;
    private static final long TICK_NS = 2_000_000;

    private final long rowsPerTick;
    private transient long tickEndNs;
    private transient long rows;

    Pace(long rowsPerSecond) {
        this.rowsPerTick = Math.max(1, rowsPerSecond * TICK_NS / 1_000_000_000);
    }

    /** Returns when the next row may pass. */
    void await() throws InterruptedException {
        if (rows == 0) {
            tickEndNs = System.nanoTime() + TICK_NS;
        }
        rows += 1;
        if (rows < rowsPerTick) {
            return;
        }
        long leftNs = tickEndNs - System.nanoTime();
        if (leftNs > 0) {
            Thread.sleep(leftNs / 1_000_000, (int) (leftNs % 1_000_000));
        }
        rows = 0;
    }
}
