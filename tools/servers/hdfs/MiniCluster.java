import java.io.File;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;

/** One name node and one data node, on the loopback interface. Arguments: folder, port of the name node. */
public class MiniCluster {
    public static void main(String[] arguments) throws Exception {
        Configuration configuration = new Configuration();
        MiniDFSCluster cluster = new MiniDFSCluster.Builder(configuration, new File(arguments[0]))
                .numDataNodes(1)
                .nameNodePort(Integer.parseInt(arguments[1]))
                .build();
        cluster.waitActive();
        System.out.println("ready");
        Thread.currentThread().join();
    }
}
