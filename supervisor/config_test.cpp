#include "supervisor/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "supervisor/config_values.h"

namespace bulkhead::supervisor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kSec = 1000 * kMs;

Config good(std::string_view text, const std::vector<std::string>& overrides = {}) {
  auto config = parse_config(text, "test.toml", overrides);
  EXPECT_TRUE(config.has_value()) << config.error().message();
  return config.value_or(Config{});
}
std::string mistake(std::string_view text, const std::vector<std::string>& overrides = {}) {
  auto config = parse_config(text, "test.toml", overrides);
  if (config) return "no mistake";
  EXPECT_EQ(config.error().kind(), ErrorKind::kInvalid);
  EXPECT_FALSE(config.error().message().contains('\n')) << config.error().message();
  return config.error().message();
}

TEST(Config, TheBuiltInTextIsAConfiguration) {
  auto config = load_config("", {});
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ(config->supervisor.runtime_dir, "/run/bulkhead");
  EXPECT_EQ(config->supervisor.state_dir, "/var/lib/bulkhead");
  EXPECT_EQ(config->api.socket, "/run/bulkhead/api.sock");
  EXPECT_EQ(config->api.socket_mode, 0660U);
  EXPECT_EQ(config->api.process.program, "bulkhead-api");
  EXPECT_EQ(config->api.process.name, "api");
  EXPECT_EQ(config->api.process.kind, ComponentKind::kForeign);
  EXPECT_EQ(config->api.process.liveness.type, CheckType::kGrpc);
  EXPECT_EQ(config->api.process.liveness.target, "unix:/run/bulkhead/api.sock");
  EXPECT_EQ(config->api.process.liveness.service, "*");
  ASSERT_EQ(config->components.size(), 1U);
  const ComponentConfig& xenstore = config->components[0];
  EXPECT_EQ(xenstore.name, "xenstore");
  EXPECT_TRUE(xenstore.enabled);
  EXPECT_TRUE(xenstore.standby);
  EXPECT_EQ(xenstore.socket, "/run/xenstored/socket");
  EXPECT_EQ(xenstore.program, "bulkhead-xenstored");
  EXPECT_EQ(xenstore.monitor.progress_deadline_ns, 50 * kMs);
  EXPECT_EQ(xenstore.monitor.probe, "xenstore");
  EXPECT_EQ(xenstore.restart.stop_signal, SIGTERM);
  EXPECT_EQ(xenstore.limits.core, 0U);
  EXPECT_FALSE(xenstore.limits.as.has_value());
  EXPECT_THAT(xenstore.settings, ElementsAre(Pair("max_connections", "16384")));
}

TEST(Config, TheEdgesHealthIsAskedForOnItsOwnSocket) {
  EXPECT_EQ(good("[api]\nsocket = \"/tmp/other.sock\"\n").api.process.liveness.target,
            "unix:/tmp/other.sock");
  EXPECT_EQ(good("[api.process.liveness]\ntype = \"none\"\n").api.process.liveness.type, CheckType::kNone);
  EXPECT_EQ(good("[api.process]\nliveness = { target = \"127.0.0.1:1\" }\n").api.process.liveness.target,
            "127.0.0.1:1");
}

TEST(Config, WithoutANamedFileTheStandardOneHoldsIfItIsThere) {
  std::string directory = "/tmp/bulkhead-config-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string standard = directory + "/bulkhead.toml";
  auto config = load_default_config(standard, {"supervisor.state_dir=/tmp/x"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->source, "built-in defaults");
  EXPECT_EQ(config->supervisor.state_dir, "/tmp/x");
  EXPECT_EQ(config->components.size(), 1U);
  std::ofstream(standard) << "[supervisor]\nruntime_dir = \"/tmp/here\"\n";
  config = load_default_config(standard, {});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->source, standard);
  EXPECT_EQ(config->supervisor.runtime_dir, "/tmp/here");
  EXPECT_TRUE(config->components.empty());
  // It is there, so it counts, whatever is wrong with it.
  std::filesystem::remove(standard);
  std::filesystem::create_directory(standard);
  EXPECT_FALSE(load_default_config(standard, {}));
  std::filesystem::remove_all(directory);
}

// systemd drops what its store has no room for: the rest is for the processes of as many components as there
// may be.
TEST(Config, TheUnitsDescriptorStoreHasRoomForAllOfCustody) {
  std::ifstream file(BULKHEAD_SOURCE_DIR "/config/systemd/bulkhead.service.in");
  const std::string unit{std::istreambuf_iterator<char>(file), {}};
  const std::string key = "\nFileDescriptorStoreMax=";
  const auto at = unit.find(key);
  ASSERT_NE(at, std::string::npos);
  const auto store = std::stoul(unit.substr(at + key.size()));
  constexpr std::uint64_t kOfProcesses = 64 * 4 * 7;
  constexpr std::uint64_t kPrograms = 64 * 3;
  EXPECT_GE(store, good("").custody.max_items_total + kOfProcesses + kPrograms + 1);
}

// Defaults live in the built-in text and nowhere else, so it must have a value for every key.
TEST(Config, EveryKeyHasADefaultInTheBuiltInText) {
  const toml::table root = toml::parse(builtin_config());
  for (const auto& key : describe_keys()) {
    std::string path = key.key;
    constexpr std::string_view kPrefix = "components.NAME.";
    if (path.starts_with(kPrefix)) path = "defaults." + path.substr(kPrefix.size());
    EXPECT_TRUE(root.at_path(path)) << path;
    EXPECT_FALSE(key.about.empty()) << path;
    EXPECT_FALSE(key.type.empty()) << path;
  }
}

// "| `key` | type | default | meaning |", as docs/configuration.md must have it.
std::string documentation_row(const KeyDescription& key, const toml::table& defaults) {
  constexpr std::string_view kPrefix = "components.NAME.";
  const bool of_component = key.key.starts_with(kPrefix);
  const std::string name = of_component ? key.key.substr(kPrefix.size()) : key.key;
  std::ostringstream value;
  const auto node = defaults.at_path(of_component ? "defaults." + name : name);
  node.visit([&value](const auto& it) { value << it; });
  std::string text = value.str();
  std::replace(text.begin(), text.end(), '\'', '"');
  return "| `" + name + "` | " + std::string(key.type) + " | `" + text + "` | " + std::string(key.about) +
         " |";
}

TEST(Config, EveryKeyIsDocumentedAsItIs) {
  std::ifstream file(BULKHEAD_SOURCE_DIR "/docs/configuration.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const toml::table defaults = toml::parse(builtin_config());
  for (const auto& key : describe_keys()) {
    const std::string row = documentation_row(key, defaults);
    EXPECT_TRUE(text.contains(row)) << "docs/configuration.md lacks:\n" << row;
  }
}

TEST(Config, AComponentExistsWhenTheFileNamesIt) {
  EXPECT_TRUE(good("").components.empty());
  const Config config = good("[components.xenstore]\nstandby = false\n");
  ASSERT_NE(config.find("xenstore"), nullptr);
  EXPECT_FALSE(config.find("xenstore")->standby);
  EXPECT_EQ(config.find("xenstore")->program, "bulkhead-xenstored");  // from the profile
  EXPECT_EQ(good("", {"components.xenstore.enabled=true"}).components.size(), 1U);
}

TEST(Config, LaterLayersWin) {
  const Config config = good(R"(
[defaults.monitor]
progress_deadline = "70ms"
[defaults.limits]
nofile = 100
[components.xenstore]
[components.xenstore.limits]
nofile = 200
[components.other]
program = "x"
)",
                             {"components.other.limits.nofile=300", "defaults.restart.budget=9"});
  EXPECT_EQ(config.find("xenstore")->limits.nofile, 200U);
  EXPECT_EQ(config.find("other")->limits.nofile, 300U);
  EXPECT_EQ(config.find("other")->monitor.progress_deadline_ns, 70 * kMs);
  EXPECT_EQ(config.find("other")->restart.budget, 9U);
  EXPECT_EQ(config.api.process.restart.budget, 9U);
}

TEST(Config, OverridesNeedNoQuotes) {
  const Config config =
      good("[components.a]\nprogram = 'x'\n",
           {"supervisor.runtime_dir=/tmp/b", "components.a.monitor.progress_deadline=75ms",
            "components.a.standby=true", "components.a.args=[\"-x\", \"y z\"]",
            "components.a.settings.max_connections=77", "components.a.settings.greeting=hello world",
            "components.a.socket_mode=0600", "components.a.user=1000",
            "components.a.limits={core=\"unlimited\", nofile=99}", "components.a.group = \"with space\" "});
  const ComponentConfig& a = *config.find("a");
  EXPECT_EQ(config.supervisor.runtime_dir, "/tmp/b");
  EXPECT_EQ(config.api.socket, "/tmp/b/api.sock");
  EXPECT_EQ(a.monitor.progress_deadline_ns, 75 * kMs);
  EXPECT_TRUE(a.standby);
  EXPECT_THAT(a.args, ElementsAre("-x", "y z"));
  EXPECT_THAT(a.settings, ElementsAre(Pair("greeting", "hello world"), Pair("max_connections", "77")));
  EXPECT_EQ(a.socket_mode, 0600U);
  EXPECT_EQ(a.user, "1000");
  EXPECT_EQ(a.group, "with space");
  EXPECT_EQ(a.limits.core, kUnlimited);
  EXPECT_EQ(a.limits.nofile, 99U);
}

TEST(Config, ReadsAForeignComponent) {
  const Config config = good(R"(
[components.dnsmasq]
kind = "foreign"
program = "/usr/sbin/dnsmasq"
args = ["--keep-in-foreground"]
user = "root"
depends_on = ["db"]
environment = { LANG = "C" }
readiness = { type = "tcp", target = "127.0.0.1:53" }
liveness = { type = "command", command = ["/bin/true"], interval = "5s", failures = 3 }
limits = { nofile = 4096, memory_max = "256MiB", as = "unlimited" }
restart = { policy = "on-failure", budget = 5, window = "60s", stop_signal = "SIGINT" }
[components.db]
kind = "foreign"
program = "db"
readiness = { type = "notify" }
)");
  ASSERT_EQ(config.components.size(), 2U);
  EXPECT_EQ(config.components[0].name, "db");  // first, the other depends on it
  const ComponentConfig& it = config.components[1];
  EXPECT_EQ(it.kind, ComponentKind::kForeign);
  EXPECT_EQ(it.readiness.type, CheckType::kTcp);
  EXPECT_EQ(it.liveness.type, CheckType::kCommand);
  EXPECT_EQ(it.liveness.interval_ns, 5 * kSec);
  EXPECT_EQ(it.limits.memory_max, 256U << 20);
  EXPECT_EQ(it.limits.as, kUnlimited);
  EXPECT_EQ(it.restart.policy, RestartPolicy::kOnFailure);
  EXPECT_EQ(it.restart.stop_signal, SIGINT);
  EXPECT_THAT(it.environment, ElementsAre(Pair("LANG", "C")));
}

TEST(Config, DependenciesComeFirst) {
  const Config config = good(R"(
[components.a]
program = "x"
depends_on = ["c", "b"]
[components.b]
program = "x"
depends_on = ["d"]
[components.c]
program = "x"
[components.d]
program = "x"
)");
  std::vector<std::string> order;
  order.reserve(config.components.size());
  for (const auto& component : config.components) order.push_back(component.name);
  EXPECT_THAT(order, ElementsAre("c", "d", "b", "a"));
}

struct Mistake {
  const char* text;
  const char* message;
};
class ConfigMistakes : public ::testing::TestWithParam<Mistake> {};

TEST_P(ConfigMistakes, AreOneLineThatSaysWhatWouldBeRight) {
  EXPECT_EQ(mistake(GetParam().text), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigMistakes,
    ::testing::Values(
        // unknown
        Mistake{"[supervisor]\nruntime_dri = '/x'",
                "test.toml:2: supervisor.runtime_dri: unknown key; did you mean supervisor.runtime_dir?"},
        Mistake{"[components.xenstore]\n\nstandbye = true",
                "test.toml:3: components.xenstore.standbye: unknown key; did you mean "
                "components.xenstore.standby?"},
        Mistake{
            "[components.xenstore.rejuvenate]\nevery = '10ms'",
            "test.toml:2: components.xenstore.rejuvenate.every: is 10ms; at least 1s, or 0s for never, is "
            "needed"},
        Mistake{
            "[components.xenstore.rejuvenate]\ngrowth = 5",
            "test.toml:2: components.xenstore.rejuvenate.growth: is 5 bytes; at least 1MiB, or 0 for never, "
            "is needed"},
        Mistake{"[components.a]\nprogram = 'x'\nrejuvenate = { every = '1h' }",
                "test.toml:3: components.a.rejuvenate.every: hands over to a standby; components.a.standby = "
                "true is needed"},
        Mistake{"[components.xenstore]\nprogress_deadline = '5ms'",
                "test.toml:2: components.xenstore.progress_deadline: unknown key; did you mean "
                "components.xenstore.monitor.progress_deadline?"},
        Mistake{"[component.xenstore]\nx = 1",
                "test.toml:1: component: unknown key; did you mean components?"},
        Mistake{"[qwertyuiop]",
                "test.toml:1: qwertyuiop: unknown key; docs/configuration.md lists the known ones"},
        Mistake{"[defaults.monitr]\n",
                "test.toml:1: defaults.monitr: unknown key; did you mean defaults.monitor?"},
        Mistake{"[api.process]\nprogramm = 'x'",
                "test.toml:2: api.process.programm: unknown key; did you mean api.process.program?"},
        // wrong types
        Mistake{"[components.xenstore]\nstandby = 'yes'",
                "test.toml:2: components.xenstore.standby: is the text \"yes\"; true or false is needed"},
        Mistake{"[components.xenstore]\nargs = 'x'",
                "test.toml:2: components.xenstore.args: is the text \"x\"; a list of texts is needed"},
        Mistake{
            "[components.xenstore]\nargs = ['x', 3]",
            "test.toml:2: components.xenstore.args: an element: is the number 3; a list of texts is needed"},
        Mistake{"components = 3", "test.toml:1: components: is a single value; a table is needed"},
        Mistake{"[components]\nxenstore = true",
                "test.toml:2: components.xenstore: is a single value; a table is needed"},
        Mistake{"[api]\ntcp = 'x'", "test.toml:2: api.tcp: is a single value; a table is needed"},
        Mistake{"[supervisor.runtime_dir]\nx = 1",
                "test.toml:1: supervisor.runtime_dir: is a table; text in quotes is needed"},
        Mistake{"[incidents]\nmax_count = 1.5",
                "test.toml:2: incidents.max_count: is a number with a fraction; a whole number is needed"},
        Mistake{"[incidents]\nmax_age = 90",
                "test.toml:2: incidents.max_age: is the number 90; a duration such as \"50ms\" is needed"},
        Mistake{"[incidents]\nmax_age = '90 days'",
                "test.toml:2: incidents.max_age: \"90 days\" is not valid; a duration such as \"50ms\" is "
                "needed"},
        Mistake{"[custody]\nmax_bytes = '1MB'",
                "test.toml:2: custody.max_bytes: \"1MB\" is not valid; a size such as \"64MiB\" is needed"},
        Mistake{"[api]\nsocket_mode = 660",
                "test.toml:2: api.socket_mode: is the number 660; permissions such as \"0660\" is needed"},
        Mistake{
            "[api]\nsocket_mode = '0999'",
            "test.toml:2: api.socket_mode: \"0999\" is not valid; permissions such as \"0660\" is needed"},
        Mistake{"[components.x]\nkind = 'alien'",
                "test.toml:2: components.x.kind: is the text \"alien\"; native or foreign is needed"},
        Mistake{"[components.x.limits]\nnofile = 'many'",
                "test.toml:2: components.x.limits.nofile: is the text \"many\"; a number, a size, "
                "\"unlimited\" or "
                "\"inherit\" is needed"},
        Mistake{"[supervisor]\nruntime_dir = \"/a\\u0000b\"",
                "test.toml:2: supervisor.runtime_dir: contains a zero byte; text in quotes is needed"},
        Mistake{"a = ",
                "test.toml:1: not valid TOML: Error while parsing key-value pair: encountered end-of-file"},
        // out of range
        Mistake{
            "[components.xenstore.monitor]\nprogress_deadline = '0ms'",
            "test.toml:2: components.xenstore.monitor.progress_deadline: is 0ns; must be between 1ms and 1h"},
        Mistake{"[incidents]\nmax_count = 0",
                "test.toml:2: incidents.max_count: is 0; must be between 1 and 10000000"},
        Mistake{"[incidents]\nmax_count = -5",
                "test.toml:2: incidents.max_count: is -5; must be between 1 and 10000000"},
        Mistake{"[incidents]\nmax_age = '99999999999d'",
                "test.toml:2: incidents.max_age: \"99999999999d\" is too large; less is needed"},
        // impossible as a whole
        Mistake{"[supervisor]\nruntime_dir = 'run'",
                "test.toml:2: supervisor.runtime_dir: is \"run\"; an absolute path is needed"},
        Mistake{"[components.x]\nenabled = true",
                "test.toml:1: components.x.program: is empty; a program is needed"},
        Mistake{"[components.x]\nkind = 'foreign'\nprogram = 'x'\nstandby = true",
                "test.toml:4: components.x.standby: needs the component contract; kind = \"native\", or "
                "leave it out, "
                "is needed"},
        Mistake{"[components.X]\nprogram = 'x'",
                "test.toml:1: components.X: is no name for a component; up to 32 of a-z, 0-9 and \"-\", "
                "beginning with "
                "a letter, are needed"},
        Mistake{"[components.x]\nprogram = 'x'\ndepends_on = ['y']",
                "test.toml:3: components.x.depends_on: names \"y\", which is no component; x exist"},
        Mistake{"[components.x]\nprogram = 'x'\ndepends_on = ['x']",
                "test.toml:3: components.x.depends_on: goes round in a circle (x -> x); one of these must "
                "not depend on "
                "the next"},
        Mistake{"[components.x]\nprogram = 'x'\ndepends_on = ['y']\n[components.y]\nprogram = "
                "'x'\ndepends_on = ['x']",
                "test.toml:3: components.x.depends_on: goes round in a circle (x -> y -> x); one of these "
                "must not "
                "depend on the next"},
        Mistake{"[components.x]\nprogram = 'x'\n[components.x.monitor]\nprogress_deadline = '15ms'",
                "test.toml:4: components.x.monitor.check_interval: is 10ms; at most half of "
                "progress_deadline (15ms) is "
                "needed"},
        Mistake{"[components.x]\nprogram = 'x'\nmonitor = { probe = 'http' }",
                "test.toml:3: components.x.monitor.probe: is \"http\"; one of these is needed: xenstore"},
        Mistake{"[components.x]\nprogram = 'x'\nmonitor = { probe = 'xenstore' }",
                "test.toml:3: components.x.monitor.probe: has nothing to connect to; components.x.socket is "
                "needed"},
        Mistake{
            "[components.x]\nprogram = 'x'\nrestart = { backoff_initial = '1h' }",
            "test.toml:3: components.x.restart.backoff_initial: is 1h; at most backoff_max (30s) is needed"},
        Mistake{
            "[defaults]\nrestart = { backoff_initial = '1h' }\n[components.x]\nprogram = 'x'",
            "test.toml:2: api.process.restart.backoff_initial: is 1h; at most backoff_max (30s) is needed"},
        Mistake{"[components.x]\nkind = 'foreign'\nprogram = 'x'\nreadiness = { type = 'tcp', target = "
                "'localhost:53' }",
                "test.toml:4: components.x.readiness.target: is \"localhost:53\"; HOST:PORT with a numeric "
                "host is "
                "needed, such as 127.0.0.1:53"},
        Mistake{
            "[components.x]\nkind = 'foreign'\nprogram = 'x'\nliveness = { type = 'command' }",
            "test.toml:4: components.x.liveness.command: is empty; a program and its arguments are needed"},
        Mistake{"[components.x]\nprogram = 'x'\nliveness = { type = 'notify' }",
                "test.toml:3: components.x.liveness.type: is told by the component itself; kind = "
                "\"foreign\", or "
                "\"none\", is needed"},
        Mistake{"[components.x]\nprogram = 'x'\nenvironment = { 'A B' = 'x' }",
                "test.toml:3: components.x.environment: \"A B\" is no name of a variable; letters, digits "
                "and \"_\" "
                "are needed"},
        Mistake{"[components.x]\nprogram = 'x'\nenvironment = { BULKHEAD_X = 'x' }",
                "test.toml:3: components.x.environment: BULKHEAD_X is the supervisor's own; a name that does "
                "not begin "
                "with BULKHEAD_ is needed"},
        Mistake{
            "[components.x]\nprogram = 'x'\nsocket = '/s'\n[components.y]\nprogram = 'x'\nsocket = '/s'",
            "test.toml:6: components.y.socket: is /s, as is components.x.socket; different paths are needed"},
        Mistake{"[api.tcp]\naddress = '0.0.0.0:7443'",
                "test.toml:2: api.tcp.cert: is \"\"; with api.tcp.address, the absolute path of a PEM file "
                "is needed"}));

TEST(Config, SocketPathsMustFit) {
  const std::string path = "/" + std::string(107, 'x');
  EXPECT_THAT(mistake("[components.x]\nprogram = 'x'\nsocket = '" + path + "'"),
              HasSubstr("test.toml:3: components.x.socket: is 108 bytes long as " + path));
  good("[components.x]\nprogram = 'x'\nsocket = '" + path.substr(0, 107) + "'");
  // The directory counts too.
  EXPECT_THAT(mistake("[supervisor]\nruntime_dir = '" + path.substr(0, 100) + "'"),
              HasSubstr("api.socket: is 109 bytes long"));
}

TEST(Config, OverridesAreBlamedByName) {
  EXPECT_EQ(mistake("", {"components.xenstore.monitor.progress_deadline=0ms"}),
            "--set components.xenstore.monitor.progress_deadline: is 0ns; must be between 1ms and 1h");
  EXPECT_EQ(mistake("", {"supervisor.bogus=1"}),
            "--set supervisor.bogus: unknown key; docs/configuration.md lists the known ones");
  EXPECT_EQ(mistake("", {"api.socket"}), "--set api.socket: has no value; --set KEY=VALUE is needed");
  EXPECT_EQ(mistake("", {"components.x.standby=true", "components.x.kind=foreign", "components.x.program=x"}),
            "--set components.x.standby: needs the component contract; kind = \"native\", or leave it out, "
            "is needed");
  EXPECT_EQ(mistake("", {"components.xenstore.monitor.progress_deadline=15ms"}),
            "--set components.xenstore.monitor.progress_deadline: "
            "components.xenstore.monitor.check_interval: is 10ms; "
            "at most half of progress_deadline (15ms) is needed");
  EXPECT_EQ(mistake("", {"=5"}), "--set : unknown key; docs/configuration.md lists the known ones");
}

TEST(Config, AFileThatCannotBeReadSaysSo) {
  auto config = load_config("/nonexistent/bulkhead.toml", {});
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().message(), "cannot read /nonexistent/bulkhead.toml: No such file or directory");
  EXPECT_FALSE(load_config("/", {}).has_value());
}

TEST(Config, ReadsAFile) {
  std::string name = "/tmp/bulkhead-config-XXXXXX";
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const std::string path = name + "/x.toml";
  std::ofstream(path) << "[supervisor]\nstate_dir = \"/x\"\n";
  auto config = load_config(path, {});
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ(config->supervisor.state_dir, "/x");
  EXPECT_EQ(config->source, path);
  std::filesystem::remove_all(name);
}

TEST(ConfigValues, Durations) {
  EXPECT_EQ(parse_duration("50ms").value_or(-1), 50 * kMs);
  EXPECT_EQ(parse_duration("5min").value_or(-1), 300 * kSec);
  EXPECT_EQ(parse_duration("0s").value_or(-1), 0);
  for (const char* bad : {"", "5", "ms", "-5ms", "5 ms", "5mss", "1.5s", "0x5ms", "18446744073709551616s"})
    EXPECT_FALSE(parse_duration(bad).has_value()) << bad;
  EXPECT_EQ(format_duration(90 * kSec), "90s");
  EXPECT_EQ(format_duration(120 * kSec), "2min");
  EXPECT_EQ(format_duration(0), "0ns");
}

TEST(ConfigValues, Sizes) {
  EXPECT_EQ(parse_size("64MiB").value_or(0), 64U << 20);
  EXPECT_EQ(parse_size("4096").value_or(0), 4096U);
  for (const char* bad : {"", "MiB", "-1", "64MB", "1e9", "16777216TiB"})
    EXPECT_FALSE(parse_size(bad).has_value()) << bad;
  EXPECT_EQ(format_size(64U << 20), "64MiB");
  EXPECT_EQ(format_size(1000), "1000B");
}

}  // namespace
}  // namespace bulkhead::supervisor
