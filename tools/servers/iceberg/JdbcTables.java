import java.util.HashMap;
import java.util.Map;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.Table;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.Namespace;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.io.CloseableIterable;

/**
 * What Iceberg's own catalog in a database knows: DATABASE USER NAME WAREHOUSE ENDPOINT NAMESPACE PROPERTY. Prints each table of
 * the namespace with its records, a tab between them, and commits: the table's property gets the value `yes`.
 */
class JdbcTables {
  public static void main(String[] arguments) throws Exception {
    Map<String, String> settings = new HashMap<>();
    settings.put("catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog");
    settings.put("uri", "jdbc:postgresql:" + arguments[0]);
    settings.put("jdbc.user", arguments[1]);
    settings.put("warehouse", arguments[3]);
    settings.put("io-impl", "org.apache.iceberg.aws.s3.S3FileIO");
    settings.put("s3.endpoint", arguments[4]);
    settings.put("s3.path-style-access", "true");
    settings.put("s3.access-key-id", "testkey");
    settings.put("s3.secret-access-key", "testsecret");
    settings.put("client.region", "us-east-1");
    Catalog catalog = CatalogUtil.buildIcebergCatalog(arguments[2], settings, null);
    for (TableIdentifier name : catalog.listTables(Namespace.of(arguments[5]))) {
      Table table = catalog.loadTable(name);
      long records = 0;
      try (CloseableIterable<FileScanTask> tasks = table.newScan().planFiles()) {
        for (FileScanTask task : tasks) {
          records += task.file().recordCount();
        }
      }
      table.updateProperties().set(arguments[6], "yes").commit();
      System.out.println(name.name() + "\t" + records);
    }
  }
}
