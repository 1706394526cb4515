import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;

/**
 * Iceberg's own REST catalog, on the loopback interface: PORT DATABASE WAREHOUSE ENDPOINT. What it knows stands in DATABASE
 * (SQLite), its tables' files at WAREHOUSE, in the S3 store of ENDPOINT.
 */
class IcebergCatalog {
  public static void main(String[] arguments) throws Exception {
    Map<String, String> settings = new HashMap<>();
    settings.put("catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog");
    settings.put("uri", "jdbc:sqlite:" + arguments[1]);
    settings.put("jdbc.schema-version", "V1");
    settings.put("warehouse", arguments[2]);
    settings.put("io-impl", "org.apache.iceberg.aws.s3.S3FileIO");
    settings.put("s3.endpoint", arguments[3]);
    settings.put("s3.path-style-access", "true");
    settings.put("s3.access-key-id", "testkey");
    settings.put("s3.secret-access-key", "testsecret");
    settings.put("client.region", "us-east-1");
    RESTCatalogAdapter adapter = new RESTCatalogAdapter(CatalogUtil.buildIcebergCatalog("test", settings, null));
    ServletContextHandler handler = new ServletContextHandler();
    handler.setContextPath("/");
    handler.addServlet(new ServletHolder(new RESTCatalogServlet(adapter)), "/*");
    Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
    server.setHandler(handler);
    server.start();
    System.out.println("ready");
    server.join();
  }
}
