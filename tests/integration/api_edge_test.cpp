// bulkhead-api as a process, with a client that was not written here. Only the core is a stand-in.
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>

#include "tests/integration/api_programs.h"

namespace bulkhead::test {
namespace {

using contract::v1::EdgeRequest;

v1::Component component(const std::string& name, bool wanted, bool healthy) {
  v1::Component component;
  component.set_name(name);
  component.set_wanted(wanted);
  component.set_running(wanted);
  component.set_ready(wanted);
  component.set_healthy(healthy);
  return component;
}

std::unique_ptr<Program> python(const std::vector<std::string>& arguments) {
  std::vector<std::string> words{BULKHEAD_PYTHON, BULKHEAD_SOURCE "/tests/integration/api_client.py"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return std::make_unique<Program>(words, Program::Environment{{"PYTHONPATH", BULKHEAD_PYTHON_MESSAGES},
                                                               {"PYTHONDONTWRITEBYTECODE", "1"}});
}

class ApiTest : public testing::Test {
 protected:
  std::string target() { return "unix:" + edge_.socket(); }

  Edge edge_;
};

TEST_F(ApiTest, AGenericClientFindsAndCallsEveryMethod) {
  edge_.start();
  const auto& service = *v1::Component::descriptor()->file()->FindServiceByName("Supervisor");
  for (int i = 0; i < service.method_count(); ++i) {
    edge_.core().on(service.method(i)->name(), [&](const EdgeRequest& request) {
      edge_.core().refuse(request.id(), edge::Code{9}, "asked for " + request.method());
    });
  }
  const auto client = python({"reflection", target()});
  for (int i = 0; i < service.method_count(); ++i) EXPECT_EQ(client->line(), service.method(i)->name());
  EXPECT_EQ(client->wait(), 0) << client->errors();
}

TEST_F(ApiTest, StandardHealthChecks) {
  edge_.core().set_component(component("xenstore", true, true));
  edge_.core().set_component(component("netback", false, false));
  edge_.start();
  const auto client = python({"health", target()});
  EXPECT_EQ(client->wait(), 0) << client->errors();
}

TEST_F(ApiTest, HealthWatchStreamsChanges) {
  edge_.core().set_component(component("xenstore", true, true));
  edge_.start();
  ASSERT_TRUE(edge_.core().wait_for("ListComponents"));
  const auto client = python({"health_watch", target(), "xenstore", "3"});
  std::optional<std::string> first = client->line();
  EXPECT_EQ(first, "SERVING");
  edge_.core().set_component(component("xenstore", true, false));
  EXPECT_EQ(client->line(), "NOT_SERVING");
  edge_.core().set_component(component("xenstore", true, true));
  EXPECT_EQ(client->line(), "SERVING");
  EXPECT_EQ(client->wait(), 0) << client->errors();
}

TEST_F(ApiTest, ASilentCoreMakesOverallHealthNotServing) {
  edge_.start();
  const auto ready =
      python({"health", target()});  // waits for overall SERVING, then fails: no such components
  ready->wait();
  const auto client = python({"health_watch", target(), "overall", "3"});
  EXPECT_EQ(client->line(), "SERVING");
  edge_.core().pause();
  EXPECT_EQ(client->line(), "NOT_SERVING");
  edge_.core().resume();
  EXPECT_EQ(client->line(), "SERVING");
  EXPECT_EQ(client->wait(), 0) << client->errors();
}

TEST_F(ApiTest, AKilledEdgeIsReplacedAndClientsReconnect) {
  edge_.core().set_component(component("xenstore", true, true));
  edge_.start();
  const auto client = python({"reconnect", target()});
  ASSERT_EQ(client->line(), "watching xenstore") << client->errors();
  edge_.program().kill(SIGKILL);
  ASSERT_EQ(client->line(), "interrupted") << client->errors();
  edge_.program().wait();
  edge_.start();
  EXPECT_EQ(client->line(), "again xenstore 9.9.9") << client->errors();
  EXPECT_EQ(client->wait(), 0) << client->errors();
}

TEST_F(ApiTest, ClientsThatComeWhileTheEdgeIsDeadWaitInTheBacklog) {
  edge_.start();
  edge_.program().kill(SIGKILL);
  edge_.program().wait();
  Program client({BULKHEAD_BIN "/bulkhead", "--socket", edge_.socket(), "-o", "json", "version"}, {});
  edge_.start();
  EXPECT_NE(client.rest().find("\"9.9.9\""), std::string::npos);
  EXPECT_EQ(client.wait(), 0) << client.errors();
}

TEST_F(ApiTest, EndsWithCodeZeroWhenTheCoreCloses) {
  edge_.start();
  edge_.core().hang_up();
  EXPECT_EQ(edge_.program().wait(), 0);
}

TEST_F(ApiTest, EndsWithCodeZeroWhenAskedTo) {
  edge_.start();
  edge_.program().kill(SIGTERM);
  EXPECT_EQ(edge_.program().wait(), 0);
}

TEST(ApiCommandLineTest, RefusesTcpWithoutMutualTls) {
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--tcp", "127.0.0.1:0"},
        {"--tcp", "127.0.0.1:0", "--tls-cert", "a", "--tls-key", "b"},
        {"--tls-cert", "a", "--tls-key", "b", "--tls-client-ca", "c"}}) {
    std::vector<std::string> words{BULKHEAD_BIN "/bulkhead-api"};
    words.insert(words.end(), flags.begin(), flags.end());
    EXPECT_EQ(run(words).code, 2);
  }
}

TEST(ApiCommandLineTest, RefusesToStartWithoutItsDescriptors) {
  EXPECT_EQ(run({BULKHEAD_BIN "/bulkhead-api"}).code, 2);
  EXPECT_EQ(run({BULKHEAD_BIN "/bulkhead-api"}, {{"BULKHEAD_EDGE_FD", "x"}}).code, 2);
  EXPECT_EQ(run({BULKHEAD_BIN "/bulkhead-api"}, {{"BULKHEAD_EDGE_FD", "1"}}).code, 2);  // not a socket
}

// An authority, and certificates by it for a server at 127.0.0.1 and for "operator"; and another authority's
// client.
class Certificates {
 public:
  Certificates() {
    authority("ca");
    authority("other-ca");
    issue("server", "ca", "/CN=bulkhead", "subjectAltName=IP:127.0.0.1");
    issue("client", "ca", "/CN=operator", "subjectAltName=DNS:operator");
    issue("stranger", "other-ca", "/CN=operator", "subjectAltName=DNS:operator");
  }
  std::string operator()(const std::string& name) const { return directory_ / name; }

 private:
  void authority(const std::string& name) const {
    openssl({"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=" + name, "-keyout",
             directory_ / (name + ".key"), "-out", directory_ / (name + ".pem")});
  }
  void issue(const std::string& name, const std::string& by, const std::string& subject,
             const std::string& san) const {
    openssl({"req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout",
             directory_ / (name + ".key"), "-out", directory_ / (name + ".csr")});
    std::ofstream(directory_ / (name + ".ext")) << san << "\n";
    openssl({"x509", "-req", "-days", "2", "-in", directory_ / (name + ".csr"), "-CA",
             directory_ / (by + ".pem"), "-CAkey", directory_ / (by + ".key"), "-CAcreateserial", "-extfile",
             directory_ / (name + ".ext"), "-out", directory_ / (name + ".pem")});
  }
  static void openssl(std::vector<std::string> words) {
    words.insert(words.begin(), "openssl");
    const Ran ran = run(words);
    if (ran.code != 0) throw std::runtime_error(ran.errors);
  }

  ScratchDirectory directory_;
};

TEST(ApiTlsTest, TcpClientsAreWhoTheirCertificateSays) {
  const Certificates files;
  Edge edge({"--tcp", "127.0.0.1:0", "--tls-cert", files("server.pem"), "--tls-key", files("server.key"),
             "--tls-client-ca", files("ca.pem")});
  const std::string status = edge.start();
  const std::string target = "127.0.0.1:" + status.substr(status.rfind(' ') + 1);
  std::string seen;
  edge.core().on("GetVersion", [&](const EdgeRequest& request) {
    v1::GetVersionResponse version;
    version.set_version(request.caller().certificate());
    edge.core().answer(request.id(), version);
  });
  const auto operator_client =
      python({"version", target, files("ca.pem"), files("client.key"), files("client.pem")});
  EXPECT_EQ(operator_client->line(), "operator");
  EXPECT_EQ(operator_client->wait(), 0) << operator_client->errors();
  const auto anonymous = python({"refused", target, files("ca.pem")});
  EXPECT_EQ(anonymous->wait(), 0) << anonymous->errors();
  const auto stranger =
      python({"refused", target, files("ca.pem"), files("stranger.key"), files("stranger.pem")});
  EXPECT_EQ(stranger->wait(), 0) << stranger->errors();
}

}  // namespace
}  // namespace bulkhead::test
