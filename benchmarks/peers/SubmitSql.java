import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Submits the statements of a file to a cluster: {@code java SubmitSql.java CONF_DIR FILE [KEY=VALUE ...]}. */
public class SubmitSql {
  public static void main(String[] arguments) throws Exception {
    Configuration configuration = GlobalConfiguration.loadConfiguration(arguments[0]);
    for (int at = 2; at < arguments.length; at++) {
      String[] pair = arguments[at].split("=", 2);
      configuration.setString(pair[0], pair[1]);
    }
    TableEnvironment tables =
        TableEnvironment.create(EnvironmentSettings.newInstance().withConfiguration(configuration).build());
    for (String statement : Files.readString(Path.of(arguments[1])).split(";")) {
      if (!statement.isBlank()) {
        tables.executeSql(statement);
      }
    }
  }
}
